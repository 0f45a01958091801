// rank_catalog and reward_catalog. Defined in rl4rec_kernels/ops/reference.py.
#include <cmath>

#include "cpu/exact_counts.h"
#include "cpu/metrics_from_counts.h"
#include "cpu/new_tensor.h"
#include "cpu/refine.h"

namespace rl4rec {
namespace {

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
  const auto refinement = Refinement::find(exact, queries, source ? &catalog : nullptr);
  if (refinement) {
    for_each_block(Partition::by_items(exact, queries.rows, kRefinedPanels), [&](const Block& b) {
      refinement->count_block(exclusions, b, target_scores.data(), counts);
    });
  } else {
    const Partition partition =
        Partition::by_items(exact, queries.rows, Partition::panels_at_once(exact));
    for_each_block(exact, queries, partition, [&](const Block& block, const Panels& panels) {
      count_exactly(exact, exclusions, panels, block, target_scores.data(), counts);
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
