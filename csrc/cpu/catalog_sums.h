// Sums of the exponentials of all scores of a catalog.
#pragma once

#include "cpu/candidates.h"
#include "cpu/exclusions.h"
#include "cpu/softmax.h"

namespace rl4rec {

// The arguments of a call.
struct SoftmaxCall {
  const Catalog& catalog;
  const Embeddings& queries;
  const Exclusions& exclusions;
  const std::vector<int64_t>& targets;  // -1 if it is in another table
  const std::vector<float>& target_scores;
  const double temperature;
  const int64_t num_valid;  // items

  float scale() const { return static_cast<float>(kLog2E / temperature); }
};

// The sum over each query's competitors, in an order that depends on the table only: over blocks of
// items, and then over the blocks. Scores are those of the catalog, or split, see split_scores.h.
//
// `counts`, unless it is null, is given the competitors above and tied with the target, as
// rank_catalog counts them. Returns whether it was: it is faster to call rank_catalog if too many
// scores are close to the targets'.
bool sum_exponentials(const SoftmaxCall& call, std::vector<LogSum>& sums, Counts* counts);

}  // namespace rl4rec
