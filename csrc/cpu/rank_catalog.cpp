// rank_catalog and reward_catalog. The definitions stand in rl4rec_kernels/ops/reference.py.
#include "cpu/rank_catalog.h"

#include <cmath>
#include <limits>

#include "cpu/candidates.h"
#include "cpu/catalog.h"
#include "cpu/metrics.h"
#include "cpu/refine.h"

namespace rl4rec {
namespace {

std::vector<int64_t> read_targets(const Tensor& targets, int64_t num_queries,
                                  const Catalog& catalog, bool may_be_elsewhere) {
  check(targets.dim() == 1 && targets.size(0) == num_queries, "targets must be [", num_queries,
        "], one id for each query");
  const Tensor column = torch::stable::unsqueeze(targets, 1);
  const Candidates ids(column, std::nullopt, num_queries, "targets");
  std::vector<int64_t> result(num_queries);
  for (int64_t q = 0; q < num_queries; ++q) {
    const int64_t id = result[q] = ids.id(q, q);
    if (id == -1 && may_be_elsewhere) continue;
    check<std::out_of_range>(0 <= id && id < catalog.items.rows, "targets: id ", id, " of query ",
                             q, " is not in the table, whose ids are 0 to ", catalog.items.rows - 1,
                             "; check that the ids and the table belong together");
    check(catalog.is_valid(id), "targets: id ", id, " of query ", q,
          " is no item: its row is not valid; leave it out");
  }
  return result;
}

std::vector<float> target_scores_of(const Catalog& catalog, const Embeddings& queries,
                                    const std::vector<int64_t>& targets,
                                    const std::optional<Tensor>& given) {
  if (!given) return score_targets(catalog, queries, targets.data());
  check(given->is_cpu() && given->scalar_type() == ScalarType::Float && given->dim() == 1 &&
            given->size(0) == queries.rows,
        "target_scores must be float32 [", queries.rows, "] on the CPU");
  const Tensor scores = torch::stable::contiguous(*given);
  const float* data = static_cast<const float*>(scores.const_data_ptr());
  return {data, data + queries.rows};
}

// One block of queries against one range of items.
void count_piece(const Catalog& catalog, const Exclusions& exclusions, const Panels& panels,
                 int64_t first_query, int64_t num_queries, int64_t begin, int64_t end,
                 const float* target_scores, Counts& counts) {
  const Tile& tile = catalog.tile;
  const int64_t num_panels = panels.size(), first_panel = first_query / tile.lanes;
  std::vector<float> targets(num_panels * tile.lanes);
  std::copy(target_scores + first_query, target_scores + first_query + num_queries,
            targets.begin());
  std::vector<int32_t> above(num_panels * tile.lanes), tied(num_panels * tile.lanes);
  std::vector<const Exclusions::Entry*> entries = exclusions.from(first_panel, num_panels, begin);

  ItemTile items(catalog);
  float scores[kMaxTileRows * kMaxLanes];
  while ((begin = items.load(begin, end)), items.size() > 0) {
    for (int64_t p = 0; p < num_panels; ++p) {
      items.score(panels, p, scores);
      prefetch_part(catalog, begin, p, num_panels);
      // NaN is neither above nor tied.
      exclusions.apply(entries[p], first_panel + p, items, std::numeric_limits<float>::quiet_NaN(),
                       scores);
      tile.count(scores, items.size(), &targets[p * tile.lanes], &above[p * tile.lanes],
                 &tied[p * tile.lanes]);
    }
  }
  for (int64_t i = 0; i < num_queries; ++i) {
    counts.above[first_query + i] += above[i];
    counts.tied[first_query + i] += tied[i];
  }
}

Counts count_catalog(const Tensor& query, const Tensor& table, const Tensor& target_ids,
                     const std::optional<Tensor>& exclude,
                     const std::optional<Tensor>& exclude_offsets,
                     const std::optional<Tensor>& valid, const std::optional<Tensor>& row_stats,
                     const std::optional<Tensor>& source,
                     const std::optional<Tensor>& given_target_scores) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, valid, queries);
  const std::vector<int64_t> targets =
      read_targets(target_ids, queries.rows, catalog, given_target_scores.has_value());
  const Exclusions exclusions(catalog, queries.rows, targets.data(), exclude, exclude_offsets);

  Counts counts;
  for (auto* column : {&counts.above, &counts.tied, &counts.total})
    *column = std::vector<std::atomic<int64_t>>(queries.rows);
  std::optional<Refinement> refinement;
  if (source) refinement.emplace(catalog, queries, *source);
  const std::vector<float> target_scores = target_scores_of(
      refinement ? refinement->source() : catalog, queries, targets, given_target_scores);

  constexpr int64_t kRefinedPanels = 256;  // what is kept for them is some MiB a thread
  const Pieces pieces = Pieces::by_items(
      catalog, queries.rows, refinement ? kRefinedPanels : Pieces::panels_at_once(catalog));
  for_each_piece(catalog, queries, pieces, [&](int64_t block, int64_t range, const Panels& panels) {
    const int64_t first = block * pieces.block_queries;
    const int64_t n = std::min(pieces.block_queries, queries.rows - first);
    const int64_t begin = range * pieces.range_rows;
    const int64_t end = std::min(begin + pieces.range_rows, catalog.items.rows);
    if (refinement)
      refinement->count_piece(exclusions, panels, first, n, begin, end, target_scores.data(),
                              counts);
    else
      count_piece(catalog, exclusions, panels, first, n, begin, end, target_scores.data(), counts);
  });

  int64_t num_valid = catalog.items.rows;
  if (catalog.valid) num_valid = std::count(catalog.valid, catalog.valid + num_valid, true);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const int64_t competitors = num_valid - exclusions.count(q);
    counts.total[q] = 1 + competitors;
    if (std::isnan(target_scores[q])) counts.above[q] = competitors;  // ranks last
  }
  return counts;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> rank_catalog(
    const Tensor& query, const Tensor& table, const Tensor& targets,
    const std::optional<Tensor>& exclude, const std::optional<Tensor>& exclude_offsets,
    const std::optional<Tensor>& valid, const std::optional<Tensor>& row_stats,
    const std::optional<Tensor>& source, const std::optional<Tensor>& target_scores) {
  return to_tensors(count_catalog(query, table, targets, exclude, exclude_offsets, valid, row_stats,
                                  source, target_scores),
                    query);
}

Tensor score_catalog_targets(const Tensor& query, const Tensor& table, const Tensor& targets,
                             const std::optional<Tensor>& row_stats) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, row_stats, std::nullopt, queries);
  const std::vector<float> scores =
      score_targets(catalog, queries, read_targets(targets, queries.rows, catalog, true).data());
  const Tensor result = torch::stable::new_empty(query, {queries.rows}, ScalarType::Float);
  std::copy(scores.begin(), scores.end(), static_cast<float*>(result.mutable_data_ptr()));
  return result;
}

Tensor reward_catalog(const Tensor& query, const Tensor& table, const Tensor& targets,
                      const std::optional<Tensor>& exclude,
                      const std::optional<Tensor>& exclude_offsets,
                      const std::optional<Tensor>& valid, const std::optional<Tensor>& row_stats,
                      const std::optional<Tensor>& source, const std::vector<int64_t>& kinds,
                      const std::vector<int64_t>& cutoffs, int64_t ties) {
  const Metrics metrics(kinds, cutoffs, ties);
  return metrics(count_catalog(query, table, targets, exclude, exclude_offsets, valid, row_stats,
                               source, std::nullopt),
                 query.size(0), query);
}

}  // namespace rl4rec
