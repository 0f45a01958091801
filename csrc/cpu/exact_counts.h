// Counts by exact scores.
#pragma once

#include "cpu/exclusions.h"

namespace rl4rec {

// Adds to `counts` what the queries of a block, which `panels` holds, find among its items.
void count_exactly(const Catalog& catalog, const Exclusions& exclusions, const Panels& panels,
                   const Block& block, const float* target_scores, Counts& counts);

// The same, for as many panels at a time as stay in the cache.
void count_exactly(const Catalog& catalog, const Embeddings& queries, const Exclusions& exclusions,
                   const Block& block, const float* target_scores, Counts& counts);

}  // namespace rl4rec
