// log_prob_catalog. Defined in rl4rec_kernels/ops/reference.py; its gradients are in
// log_prob_catalog_grad.cpp.
#include <cmath>

#include "cpu/catalog_sums.h"
#include "cpu/new_tensor.h"
#include "cpu/refine.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

// What the operators compute: of each query, and what is counted if it is asked for.
struct Found {
  Tensor log_probs, normalizer;
  Counts counts;
};

// With `given_scores` of the targets, these may be in another table: -1. Sums are those of the
// items of this one then.
Found find(const Tensor& query, const Tensor& table, const Tensor& target_ids,
           const OptionalTensor& exclude, const OptionalTensor& exclude_offsets,
           const OptionalTensor& valid, double temperature, bool counts,
           const OptionalTensor& given_scores) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, std::nullopt, valid, queries);
  const std::vector<int64_t> targets =
      read_targets(target_ids, catalog, queries.rows, given_scores.has_value());
  const Exclusions exclusions(catalog, queries.rows, targets.data(), exclude, exclude_offsets);
  const std::vector<float> target_scores = given_scores
                                               ? read_target_scores(*given_scores, queries.rows)
                                               : score_targets(catalog, queries, targets.data());
  int64_t num_valid = catalog.items.rows;
  if (catalog.valid) num_valid = std::count(catalog.valid, catalog.valid + num_valid, true);
  std::vector<LogSum> sums;
  Found found{new_tensor(aoti_torch_dtype_float32(), queries.rows),
              new_tensor(aoti_torch_dtype_float64(), queries.rows, 2), Counts(queries.rows)};
  const bool has_counted = sum_exponentials(
      {catalog, queries, exclusions, targets, target_scores, temperature, num_valid}, sums,
      counts ? &found.counts : nullptr);
  if (counts && !has_counted) {
    found.counts = Counts(queries.rows);
    const Refinement refinement(catalog, queries, nullptr, 0);
    for_each_block(Partition::by_items(catalog, queries.rows, kRefinedPanels), [&](const Block& b) {
      refinement.count_block(exclusions, b, target_scores.data(), found.counts);
    });
  }

  float* log_probs = found.log_probs.mutable_data_ptr<float>();
  double* normalizers = found.normalizer.mutable_data_ptr<double>();
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q) {
      const int64_t competitors = num_valid - exclusions.count(q);
      found.counts.total[q] = 1 + competitors;
      if (std::isnan(target_scores[q])) found.counts.above[q] = competitors;  // ranks last
      LogSum& sum = sums[q];
      if (targets[q] >= 0) sum.add(target_scores[q], 1.0);
      if (sum.reference == -std::numeric_limits<double>::infinity()) {  // as all scores are
        const auto others = static_cast<double>(competitors);
        sum.sum = targets[q] >= 0 ? sum.sum * (1.0 + others) : others;
      }
      log_probs[q] = static_cast<float>(sum.log_prob(target_scores[q]));
      normalizers[2 * q] = sum.reference;
      normalizers[2 * q + 1] = std::log(sum.sum);
    }
  });
  return found;
}

// Log-probabilities [B] of the targets in the softmax of all scores / temperature, and the
// normalizer float64 [B, 2]: about the largest score, and the log of the sum of e^((score -
// largest) / temperature).
std::tuple<Tensor, Tensor> log_prob_catalog(const Tensor& query, const Tensor& table,
                                            const Tensor& targets, const OptionalTensor& exclude,
                                            const OptionalTensor& exclude_offsets,
                                            const OptionalTensor& valid, double temperature) {
  const Found found = find(query, table, targets, exclude, exclude_offsets, valid, temperature,
                           false, std::nullopt);
  return {found.log_probs, found.normalizer};
}

// The counts of rank_catalog and the results of log_prob_catalog, from one pass over the table.
std::tuple<Tensor, Tensor, Tensor, Tensor> rank_log_prob_catalog(
    const Tensor& query, const Tensor& table, const Tensor& targets, const OptionalTensor& exclude,
    const OptionalTensor& exclude_offsets, const OptionalTensor& valid, double temperature) {
  const Found found =
      find(query, table, targets, exclude, exclude_offsets, valid, temperature, true, std::nullopt);
  const auto [above, tied, total] = found.counts.to_tensors();
  return {above, tied, total, found.log_probs};
}

// The counts of rank_catalog for given scores of the targets, and the normalizer of
// log_prob_catalog; both of a part of the whole table.
std::tuple<Tensor, Tensor, Tensor, Tensor> rank_log_sums_catalog(
    const Tensor& query, const Tensor& table, const Tensor& targets, const OptionalTensor& exclude,
    const OptionalTensor& exclude_offsets, const OptionalTensor& valid, double temperature,
    const Tensor& target_scores) {
  const Found found = find(query, table, targets, exclude, exclude_offsets, valid, temperature,
                           true, target_scores);
  const auto [above, tied, total] = found.counts.to_tensors();
  return {above, tied, total, found.normalizer};
}

RL4REC_OPERATOR(log_prob_catalog,
                "(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
                "Tensor? exclude_offsets, Tensor? valid, float temperature) -> "
                "(Tensor log_probs, Tensor normalizer)")
RL4REC_OPERATOR(rank_log_prob_catalog,
                "(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
                "Tensor? exclude_offsets, Tensor? valid, float temperature) -> "
                "(Tensor above, Tensor tied, Tensor total, Tensor log_probs)")
RL4REC_OPERATOR(rank_log_sums_catalog,
                "(Tensor query, Tensor table, Tensor targets, Tensor? exclude, "
                "Tensor? exclude_offsets, Tensor? valid, float temperature, "
                "Tensor target_scores) -> "
                "(Tensor above, Tensor tied, Tensor total, Tensor normalizer)")

}  // namespace
}  // namespace rl4rec
