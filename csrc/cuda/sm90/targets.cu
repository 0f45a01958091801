// Counts for several targets of a query on Hopper. Compiled for sm_90a only.
// rl4rec_kernels/ops/_hopper_targets.py makes rank_catalog_targets of them.
#include "cuda/sm90/score_tiles.cuh"
#include "cuda/sm90/targets.cuh"

namespace rl4rec {
namespace {

// Counts, for each target, of the items of its query that score above it, and of those that score
// the same, int64 [2, T]; the target is among the latter. Those of query i are from offsets[i] to
// offsets[i + 1]. Rows that are not `valid` and excluded pairs, see `sum_catalog`, are not counted.
Tensor count_catalog_targets(const Tensor& query, const Tensor& table, const Tensor& target_scores,
                             const Tensor& offsets, const OptionalTensor& valid,
                             const OptionalTensor& pairs, const OptionalTensor& starts,
                             const OptionalTensor& query_scale, const OptionalTensor& table_scale) {
  const Sides sides(query, table, query_scale, table_scale);
  const int64_t num_queries = sides.query.rows, num_targets = target_scores.numel();
  check(is_vector(target_scores, query, ScalarType::Float, num_targets) &&
            is_vector(offsets, query, ScalarType::Long, num_queries + 1) &&
            num_targets <= std::numeric_limits<int32_t>::max(),
        "target_scores must be contiguous float32 and offsets int64 [", num_queries + 1, "] on ",
        kDeviceName);
  const Tensor counts = torch::stable::new_zeros(query, {2, num_targets}, ScalarType::Long);
  score_tiles(sides, valid,
              CountTargets{sides.excluded(pairs, starts), offsets.const_data_ptr<int64_t>(),
                           target_scores.const_data_ptr<float>(),
                           static_cast<unsigned long long*>(counts.mutable_data_ptr()),
                           static_cast<int>(num_queries), static_cast<int>(num_targets)});
  return counts;
}

RL4REC_CUDA_OPERATOR(count_catalog_targets,
                     "(Tensor query, Tensor table, Tensor target_scores, Tensor offsets, Tensor? "
                     "valid, Tensor? pairs, Tensor? starts, Tensor? query_scale=None, "
                     "Tensor? table_scale=None) -> Tensor")

}  // namespace
}  // namespace rl4rec
