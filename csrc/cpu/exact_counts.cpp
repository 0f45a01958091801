#include "cpu/exact_counts.h"

namespace rl4rec {

void count_exactly(const Catalog& catalog, const Exclusions& exclusions, const Panels& panels,
                   const Block& block, const float* target_scores, Counts& counts) {
  const TileKernels& tile = catalog.tile;
  const int64_t num_panels = panels.size(), lanes = tile.lanes;
  std::vector<float> targets(num_panels * tile.lanes);
  std::copy_n(target_scores + block.first_query, block.num_queries, targets.begin());
  std::vector<int32_t> above(num_panels * tile.lanes), tied(num_panels * tile.lanes);
  auto entries = exclusions.seek(block.first_query, lanes, num_panels, block.begin);
  std::vector<const float*> compared(num_panels);
  for (int64_t p = 0; p < num_panels; ++p) {
    const float* panel_targets = &targets[p * lanes];
    const int64_t n = panels.num_queries(p);
    if (std::any_of(panel_targets, panel_targets + n, is_tiny)) compared[p] = panel_targets;
  }

  ItemTile items(catalog);
  alignas(64) float buffers[2][kMaxTileScores];
  // Counts the scores of panel p, unless they `are_counted` but for the exclusions.
  const auto count = [&](int64_t p, bool are_counted) {
    float* scores = buffers[p % 2];
    const float* target = &targets[p * lanes];
    int32_t *more = &above[p * lanes], *same = &tied[p * lanes];
    const auto count_all = [&](bool only_finite) {
      return tile.count(scores, items.size(), target, only_finite, more, same);
    };
    if (!are_counted &&
        (!items.is_settled(panels, p, compared[p]) || !count_all(/*only_finite=*/true))) {
      items.settle(panels, p, compared[p], scores);
      count_all(/*only_finite=*/false);
    }
    exclusions.for_each(entries[p], block.first_query + p * lanes, lanes, items,
                        [&](int64_t row, int64_t lane) {
                          const float score = scores[row * lanes + lane];
                          more[lane] -= score > target[lane];
                          same[lane] -= score == target[lane];
                        });
  };
  int64_t begin = block.begin;
  while ((begin = items.load(begin, block.end)), items.size() > 0) {
    const bool counts_meanwhile = tile.score_and_count && items.size() == tile.rows;
    // The scores of a panel are counted while those of the next one are computed.
    for (int64_t p = 0; p < num_panels; ++p) {
      bool are_counted = false;
      if (p > 0 && counts_meanwhile && items.is_settled(panels, p - 1, compared[p - 1])) {
        const int64_t last = (p - 1) * lanes;
        are_counted = items.multiply_and_count(
            panels, p, buffers[p % 2],
            {buffers[(p - 1) % 2], &targets[last], &above[last], &tied[last]});
      } else {
        items.multiply(panels, p, buffers[p % 2]);
      }
      prefetch_part(catalog, begin, p, num_panels);
      if (p > 0) count(p - 1, are_counted);
    }
    count(num_panels - 1, /*are_counted=*/false);
  }
  for (int64_t i = 0; i < block.num_queries; ++i)
    counts.add(block.first_query + i, above[i], tied[i], 0);
}

void count_exactly(const Catalog& catalog, const Embeddings& queries, const Exclusions& exclusions,
                   const Block& block, const float* target_scores, Counts& counts) {
  const int64_t at_once = Partition::panels_at_once(catalog) * kMaxLanes;
  Panels panels(catalog, queries);
  for (int64_t first = 0; first < block.num_queries; first += at_once) {
    Block part = block;
    part.first_query += first;
    part.num_queries = std::min(at_once, block.num_queries - first);
    panels.pack(part.first_query, part.first_query + part.num_queries);
    count_exactly(catalog, exclusions, panels, part, target_scores, counts);
  }
}

}  // namespace rl4rec
