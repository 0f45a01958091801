#include "cpu/settle.h"

#include <algorithm>
#include <cmath>

#include "cpu/catalog.h"

namespace rl4rec {

float float64_score(const float* query, const float* item, int64_t dim, double scale) {
  constexpr int64_t kSums = 8;  // so that the loop is vectorized
  double sums[kSums] = {};
  int64_t j = 0;
  for (; j + kSums <= dim; j += kSums)
    for (int64_t i = 0; i < kSums; ++i) sums[i] += double{query[j + i]} * item[j + i];
  for (; j < dim; ++j) sums[j % kSums] += double{query[j]} * item[j];
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return static_cast<float>(scale * sum);
}

// Scores those pairs of a tile again that need it.
void ItemTile::settle(const Panels& panels, int64_t p, const float* compared, float* scores) const {
  const Embeddings& items = catalog_.items;
  const int64_t lanes = catalog_.tile.lanes;
  const bool is_int8 = items.storage == kInt8, flushes = catalog_.arithmetic == kBFloat16Pairs;
  if (is_settled(panels, p, compared) && (is_int8 || level().all_finite(scores, size_ * lanes)))
    return;
  Extremes extremes[kMaxTileRows];
  for (int64_t r = 0; r < size_ && flushes; ++r) extremes[r] = items.extremes(ids_[r]);
  std::vector<float> query(items.padded_dim()), item(items.padded_dim());
  for (int64_t l = 0; l < panels.num_queries(p); ++l) {
    const Extremes& own = panels.extremes(p, l);
    bool is_copied = false, is_nan = false;
    float scale = 1.0f;
    for (int64_t r = 0; r < size_ && !is_nan; ++r) {
      float& score = scores[r * lanes + l];
      const bool settled = is_int8
                               ? is_normal(panels.scales(p, scales_).lane_scale[l] * scales_[r])
                               : is_finite(score) && !(flushes && needs_float64(own, extremes[r]));
      const bool tiny = flushes && compared && is_tiny(compared[l]) && is_tiny(score) &&
                        may_be_flushed(own, extremes[r]);
      if (settled && !tiny) continue;
      if (!is_copied) {
        scale = panels.copy_query(p, l, query.data());
        is_copied = true;
        const auto isnan = [](float x) { return std::isnan(x); };
        is_nan = isnan(scale) || std::any_of(query.begin(), query.end(), isnan);
        if (is_nan) break;  // so are its scores
      }
      items.copy_row(ids_[r], item.data());
      const float found = float64_score(query.data(), item.data(), items.dim,
                                        is_int8 ? double{scale} * scales_[r] : 1.0);
      // A sum of large products may be tiny by chance only. It stays so that it is tiny whenever
      // the pair is compared.
      if (!settled || is_tiny(found)) score = found;
    }
  }
}

}  // namespace rl4rec
