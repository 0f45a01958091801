// How the split scores of a call are used.
#pragma once

#include "cpu/catalog_sums.h"
#include "cpu/split_scores.h"

namespace rl4rec {

// By query, padded to whole panels: scores from `heavy` on are computed exactly, and those from
// `low` to `high` are too close to the target's to be counted.
struct Thresholds {
  Thresholds(const SoftmaxCall& call, const Catalog& split, const SplitScores& splits, bool counts);

  std::vector<float> heavy, low, high;
};

}  // namespace rl4rec
