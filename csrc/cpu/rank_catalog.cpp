// rank_catalog and reward_catalog. Defined in rl4rec_kernels/ops/reference.py.
#include <cmath>
#include <limits>

#include "cpu/exclusions.h"
#include "cpu/metrics_from_counts.h"
#include "cpu/new_tensor.h"
#include "cpu/refine.h"

namespace rl4rec {
namespace {

// Adds to `counts` what the queries of a block find among its items.
void count_block(const Catalog& catalog, const Exclusions& exclusions, const Panels& panels,
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

Counts count_catalog(const Tensor& query, const Tensor& table, const Tensor& target_ids,
                     const OptionalTensor& exclude, const OptionalTensor& exclude_offsets,
                     const OptionalTensor& valid, const OptionalTensor& row_stats,
                     const OptionalTensor& source, const OptionalTensor& given_scores) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, valid, queries);
  const std::vector<int64_t> targets =
      read_targets(target_ids, catalog, queries.rows, given_scores.has_value());
  const Exclusions exclusions(catalog, queries.rows, targets.data(), exclude, exclude_offsets);
  std::optional<Catalog> source_catalog;
  if (source) source_catalog.emplace(*source, std::nullopt, valid, queries);
  const Catalog& exact = source ? *source_catalog : catalog;
  const std::vector<float> target_scores = given_scores
                                               ? read_target_scores(*given_scores, queries.rows)
                                               : score_targets(exact, queries, targets.data());

  Counts counts(queries.rows);
  if (source || Refinement::pays(exact, queries)) {
    const Refinement refinement(exact, queries, source ? &catalog : nullptr);
    for_each_block(Partition::by_items(exact, queries.rows, kRefinedPanels), [&](const Block& b) {
      refinement.count_block(exclusions, b, target_scores.data(), counts);
    });
  } else {
    const Partition partition =
        Partition::by_items(exact, queries.rows, Partition::panels_at_once(exact));
    for_each_block(exact, queries, partition, [&](const Block& block, const Panels& panels) {
      count_block(exact, exclusions, panels, block, target_scores.data(), counts);
    });
  }

  int64_t num_valid = catalog.items.rows;
  if (catalog.valid) num_valid = std::count(catalog.valid, catalog.valid + num_valid, true);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const int64_t competitors = num_valid - exclusions.count(q);
    counts.total[q] = 1 + competitors;
    if (std::isnan(target_scores[q])) counts.above[q] = competitors;  // ranks last
  }
  return counts;
}

// The counts of every query's target among all rows of the table. `exclude` is as the ids of
// score_candidates. With `source` the table is a quantized copy of it, and counts are those of the
// source. `target_scores` [B] may be given for targets of -1, which are not in this table.
std::tuple<Tensor, Tensor, Tensor> rank_catalog(
    const Tensor& query, const Tensor& table, const Tensor& targets, const OptionalTensor& exclude,
    const OptionalTensor& exclude_offsets, const OptionalTensor& valid,
    const OptionalTensor& row_stats, const OptionalTensor& source,
    const OptionalTensor& target_scores) {
  return count_catalog(query, table, targets, exclude, exclude_offsets, valid, row_stats, source,
                       target_scores)
      .to_tensors();
}

Tensor reward_catalog(const Tensor& query, const Tensor& table, const Tensor& targets,
                      const OptionalTensor& exclude, const OptionalTensor& exclude_offsets,
                      const OptionalTensor& valid, const OptionalTensor& row_stats,
                      const OptionalTensor& source, const std::vector<int64_t>& kinds,
                      const std::vector<int64_t>& cutoffs, int64_t ties) {
  const Metrics metrics(kinds, cutoffs, ties);
  return metrics(count_catalog(query, table, targets, exclude, exclude_offsets, valid, row_stats,
                               source, std::nullopt));
}

// The scores that rank_catalog compares with, float32 [B]; -inf for a target of -1.
Tensor score_catalog_targets(const Tensor& query, const Tensor& table, const Tensor& targets,
                             const OptionalTensor& row_stats) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, std::nullopt, queries);
  const std::vector<float> scores =
      score_targets(catalog, queries, read_targets(targets, catalog, queries.rows, true).data());
  const Tensor result = new_tensor(aoti_torch_dtype_float32(), queries.rows);
  std::copy(scores.begin(), scores.end(), result.mutable_data_ptr<float>());
  return result;
}

RL4REC_OPERATOR(rank_catalog,
                "(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
                "Tensor? exclude_offsets, Tensor? valid, Tensor? row_stats, Tensor? source, "
                "Tensor? target_scores) -> (Tensor above, Tensor tied, Tensor total)")
RL4REC_OPERATOR(reward_catalog,
                "(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
                "Tensor? exclude_offsets, Tensor? valid, Tensor? row_stats, Tensor? source, "
                "int[] kinds, int[] cutoffs, int ties) -> Tensor")
RL4REC_OPERATOR(score_catalog_targets,
                "(Tensor query, Tensor table, Tensor targets, Tensor? row_stats) -> Tensor")

}  // namespace
}  // namespace rl4rec
