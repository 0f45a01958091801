#include "cpu/cost.h"

#include <algorithm>

namespace rl4rec {

float scoring_cost(const Catalog& catalog, int64_t num_queries) {
  const Embeddings& items = catalog.items;
  const auto queries = static_cast<float>(std::max<int64_t>(num_queries, 1));
  float per_item = 0.0f;
  if (!is_cached(items)) per_item = kReadingCost * static_cast<float>(items.value_bytes) / 4;
  if (catalog.arithmetic == kFew) {
    const bool is_int8 = items.storage == kInt8;
    per_item += is_int8 ? kFewInt8ItemCost : kFewItemCost;
    return per_item / queries + (is_int8 ? kFewInt8Cost : kFewCost);
  }
  if (catalog.arithmetic == kSplitInt8)
    per_item += kSplitInt8RoundingCost;
  else if (catalog.rounds)
    per_item += catalog.arithmetic == kSplit ? kSplitRoundingCost : kRoundingCost;
  else if (!catalog.loads_in_place)
    per_item += kCopyingCost;
  const int64_t lanes = catalog.tile.lanes, padded = (num_queries + lanes - 1) / lanes * lanes;
  return (per_item + catalog.tile.cost * static_cast<float>(padded)) / queries;
}

float bounding_cost(const Catalog& catalog, int64_t num_queries) {
  if (catalog.arithmetic == kFew) return 0.0f;
  return kBoundedQueryCost + kBoundedCallCost / static_cast<float>(num_queries);
}

float expected_rescoring(const Catalog& catalog, int64_t k) {
  const Embeddings& items = catalog.items;
  if (k > 0) {
    const float cost = items.storage == kInt8 ? kBestInt8ItemCost : kBestItemCost;
    return cost * static_cast<float>(k) / static_cast<float>(std::max<int64_t>(items.rows, 1));
  }
  switch (catalog.arithmetic) {
    case kBFloat16Pairs: return 0.03f;
    case kInt8Quads: return 0.06f;
    case kSplitInt8: return 0.005f;
    default: return 0.0f;
  }
}

}  // namespace rl4rec
