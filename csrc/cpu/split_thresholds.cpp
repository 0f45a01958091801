#include "cpu/split_thresholds.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "cpu/refine.h"

namespace rl4rec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Scores that are certainly as large as those of heavy items, from a sample of the table. Two large
// ones of it, which may be rare, are left out.
std::vector<float> heavy_scores(const SoftmaxCall& call, const Catalog& split,
                                const SplitScores& splits) {
  constexpr int64_t kSample = SplitScores::kSample;
  const int64_t lanes = split.tile.lanes, num_queries = call.queries.rows;
  std::vector<float> result((num_queries + kMaxLanes - 1) / kMaxLanes * kMaxLanes, kInfinity);
  const auto of_panels = [&](int64_t begin, int64_t end) {
    const TileSession session;
    Panels panels(split, call.queries);
    const int64_t rows = split.tile.rows;
    std::vector<ItemTile> tiles;
    for (int64_t i = 0; i < kSample; i += rows) {
      tiles.emplace_back(split);
      tiles.back().load_ids(&splits.sample()[i], rows);
    }
    std::vector<float> scores(kSample * lanes);
    float largest[3][kMaxLanes];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * lanes, last = std::min(first + lanes, num_queries);
      panels.pack(first, last);
      for (size_t t = 0; t < tiles.size(); ++t)
        tiles[t].multiply(panels, 0, &scores[t * kMaxTileScores]);
      // The largest three of each lane, and the sums of all but two, which count as the third.
      std::fill_n(largest[0], 3 * kMaxLanes, -FLT_MAX);
      for (int64_t i = 0; i < kSample; ++i)
        for (int64_t l = 0; l < lanes; ++l) {
          float score = scores[i * lanes + l];
          for (auto& best : largest) {
            const float lower = std::min(score, best[l]);
            best[l] = std::max(score, best[l]);
            score = lower;
          }
        }
      for (int64_t i = 0; i < kSample; ++i)
        for (int64_t l = 0; l < lanes; ++l)
          scores[i * lanes + l] =
              std::min(0.0f, scores[i * lanes + l] - largest[2][l]) * call.scale();
      level().softmax.exp2(scores.data(), kSample * lanes);
      for (int64_t q = first; q < last; ++q) {
        if (!splits.is_split(q)) continue;
        float sum = -2.0f;
        for (int64_t i = 0; i < kSample; ++i) sum += scores[i * lanes + q - first];
        const double all = sum * static_cast<double>(call.num_valid) / (2 * kSample);
        const double heavy =
            largest[2][q - first] + call.temperature * std::log(splits.heavy(q) * all);
        const double target = call.target_scores[q] + call.temperature * std::log(splits.heavy(q));
        const bool is_higher = call.targets[q] >= 0 && target > heavy;
        result[q] = static_cast<float>(is_higher ? target : heavy);
      }
    }
  };
  parallel_for(0, (num_queries + lanes - 1) / lanes, 1, of_panels);
  return result;
}

}  // namespace

Thresholds::Thresholds(const SoftmaxCall& call, const Catalog& split, const SplitScores& splits,
                       bool counts)
    : heavy(heavy_scores(call, split, splits)) {
  if (!counts) return;
  const Approximation approximation(Catalog(call.catalog, kThreeInt8, call.queries), call.queries);
  low.assign(heavy.size(), kInfinity);
  high = low;
  for (int64_t q = 0; q < call.queries.rows; ++q) {
    const float target = call.target_scores[q];
    const float margin =
        std::isfinite(target) ? approximation.bound(q, splits.norms(), target) : 0.0f;
    // An excluded score is -inf, and no other.
    low[q] = std::max(target - margin, -FLT_MAX);
    high[q] = std::max(target + margin, -FLT_MAX);
    if (std::isnan(target)) low[q] = high[q] = kInfinity;
  }
}

}  // namespace rl4rec
