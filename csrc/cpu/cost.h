// What the ways to score the items of a call cost: which of them runs is decided by this alone, and
// by how many pairs had to be rescored so far.
#pragma once

#include "cpu/catalog.h"

namespace rl4rec {

// A table of so many bytes stays in the L2 caches from call to call.
constexpr int64_t kCachedBytes = 2 << 20;

// Costs, in units of a dot product of dot_rows. They were measured for 384 dimensions on a Xeon,
// where the unit is 12 to 20 ns; those of tiles are in TileKernels.
//
// Of reading a row of float32 beyond the L2 cache, one after the other, and a single one.
constexpr float kReadingCost = 4.0f;
constexpr float kSingleReadingCost = 12.0f;
// Of kFew, for an item and for each of its pairs.
constexpr float kFewItemCost = 0.75f, kFewCost = 0.36f;
constexpr float kFewInt8ItemCost = 0.2f, kFewInt8Cost = 0.24f;
// Of rescoring a pair, with finding it.
constexpr float kRescoringCost = 1.6f;
// Of copying an item to a tile, and of rounding it to bfloat16, to two of them and to two int8.
constexpr float kCopyingCost = 1.0f;
constexpr float kRoundingCost = 3.1f;
constexpr float kSplitRoundingCost = 5.2f;
constexpr float kSplitInt8RoundingCost = 6.7f;
// Of an item of the best k: more than k are rescored, one query at a time. By an int8 copy it is
// about 11 for real embeddings and 50 for independent normal values; this is in between.
constexpr float kBestItemCost = 6.0f, kBestInt8ItemCost = 20.0f;
// Of approximate scores of tiles, for a query and for a call: norms, panels, lists of pairs.
constexpr float kBoundedQueryCost = 60.0f, kBoundedCallCost = 2000.0f;

inline bool is_cached(const Embeddings& items) {
  return items.rows * items.dim * items.value_bytes <= kCachedBytes;
}

// About the time per pair of scoring the items for so many queries, in units of a dot product of
// dot_rows: of the multiplications, and of reading, copying or rounding an item, which all
// queries share. It depends on sizes and the level only.
float scoring_cost(const Catalog& catalog, int64_t num_queries);

// About the time per query, in the same unit, of what approximate scores take besides.
float bounding_cost(const Catalog& catalog, int64_t num_queries);

// About the time per pair that rescoring takes, until it is known better: for the best k items, or
// if `k` is 0, for comparisons with scores of targets, as of vectors of independent normal values.
float expected_rescoring(const Catalog& catalog, int64_t k);

}  // namespace rl4rec
