// reward_candidates on the GPU. The definition stands in rl4rec_kernels/ops/reference.py.
#include "cuda/arguments.cuh"
#include "cuda/metrics.cuh"
#include "cuda/ops.h"

namespace rl4rec {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    reward_kernel(const Queries queries, const Rows<T> table, const Candidates candidates,
                  RowCounts* rows, const MetricList metrics, float* rewards) {
  int64_t row;
  Counts counts;
  if (!count_candidates(queries, table, candidates, rows, row, counts)) return;
#pragma unroll 1
  for (int m = warp_of_thread(); m < metrics.count; m += kWarps) {
    const float value = counts.total < 0 ? kNan
                                         : evaluate_metric(metrics.kinds[m], metrics.cutoffs[m],
                                                           metrics.ties, counts);
    if (lane_of_thread() == 0) rewards[row * metrics.count + m] = value;
  }
}

MetricList list_metrics(const std::vector<int64_t>& kinds, const std::vector<int64_t>& cutoffs,
                        int64_t ties) {
  check(kinds.size() == cutoffs.size(), "kinds and cutoffs must have the same length");
  check(kinds.size() <= kMaxMetrics, "metrics must be at most ", kMaxMetrics,
        " in one call on the GPU, got ", kinds.size(), ": make several calls");
  check(0 <= ties && ties < kNumTies, "unknown tie rule ", ties);
  MetricList list = {};
  list.ties = static_cast<int>(ties);
  for (size_t m = 0; m < kinds.size(); ++m, ++list.count) {
    check(0 <= kinds[m] && kinds[m] < kNumKinds, "unknown metric kind ", kinds[m]);
    list.kinds[m] = static_cast<int>(kinds[m]);
    list.cutoffs[m] = cutoffs[m];
  }
  return list;
}

}  // namespace

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const std::optional<Tensor>& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties, Tensor bad) {
  const MetricList metrics = list_metrics(kinds, cutoffs, ties);
  CandidateArguments arguments(query, table, ids, offsets, bad);
  const Candidates& candidates = arguments.candidates;
  const Tensor rewards = arguments.new_result({candidates.rows, metrics.count}, ScalarType::Float);
  RowCounts* rows = arguments.prepare(true);
  with_storage(arguments.table, [&](auto storage) {
    using T = decltype(storage);
    arguments.device.launch(reward_kernel<T>, count_blocks<true>(candidates), kThreads,
                            arguments.shared_bytes(), arguments.queries,
                            arguments.table.as_rows<T>(), candidates, rows, metrics,
                            static_cast<float*>(rewards.mutable_data_ptr()));
  });
  return rewards;
}

}  // namespace rl4rec
