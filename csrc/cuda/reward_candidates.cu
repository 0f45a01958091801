// reward_candidates on the GPU. Defined in rl4rec_kernels/ops/reference.py.
#include "cuda/arguments.cuh"
#include "cuda/counts.cuh"
#include "metrics.h"

namespace rl4rec {
namespace {

constexpr int64_t kMaxMetrics = 64;  // of one launch, which passes them by value

struct MetricList {
  int64_t kinds[kMaxMetrics], cutoffs[kMaxMetrics];
  int64_t ties;
  int count;
};

// The lanes of a warp, which compute one metric together.
struct WarpLanes {
  __device__ int64_t index() const { return lane_of_thread(); }
  __device__ int64_t count() const { return kLanes; }
  __device__ double sum(double value) const { return sum_over_lanes(value); }
};

// A function call, so that its registers do not add to those of the scores.
__device__ __noinline__ float metric_of_row(int64_t kind, int64_t cutoff, int64_t ties,
                                            Counts counts) {
  return metric_of(kind, cutoff, ties, counts.above, counts.tied, counts.total, WarpLanes());
}

// `stride` is the number of all metrics of a row.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    reward_kernel(const Queries queries, const Rows<T> table, const Candidates candidates,
                  RowCounts* rows, const MetricList metrics, float* rewards, int64_t stride) {
  int64_t row;
  Counts counts;
  if (!count_candidates(queries, table, candidates, rows, row, counts)) return;
#pragma unroll 1
  for (int m = warp_of_thread(); m < metrics.count; m += kWarps) {
    const float value = metric_of_row(metrics.kinds[m], metrics.cutoffs[m], metrics.ties, counts);
    if (lane_of_thread() == 0) rewards[row * stride + m] = value;
  }
}

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const OptionalTensor& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties, Tensor bad) {
  check_metrics(kinds, cutoffs, ties);
  CandidateArguments arguments(query, table, ids, offsets, bad);
  const Candidates& candidates = arguments.candidates;
  const int64_t num_metrics = static_cast<int64_t>(kinds.size());
  const Tensor rewards = arguments.new_result({candidates.rows, num_metrics}, ScalarType::Float);
  int64_t first = 0;
  do {  // at least one launch, which checks the ids
    MetricList metrics = {};
    metrics.ties = ties;
    for (; metrics.count < std::min(kMaxMetrics, num_metrics - first); ++metrics.count) {
      metrics.kinds[metrics.count] = kinds[first + metrics.count];
      metrics.cutoffs[metrics.count] = cutoffs[first + metrics.count];
    }
    RowCounts* rows = arguments.prepare(true);
    with_storage(arguments.table, [&](auto storage) {
      using T = decltype(storage);
      arguments.device.launch(reward_kernel<T>, count_blocks<true>(candidates), kThreads,
                              arguments.shared_bytes(), arguments.queries,
                              arguments.table.as_rows<T>(), candidates, rows, metrics,
                              rewards.mutable_data_ptr<float>() + first, num_metrics);
    });
    first += kMaxMetrics;
  } while (first < num_metrics);
  return rewards;
}

RL4REC_CUDA_OPERATOR(reward_candidates,
                     "(Tensor query, Tensor table, Tensor ids, Tensor? offsets, int[] kinds, "
                     "int[] cutoffs, int ties, Tensor(a!) bad) -> Tensor")

}  // namespace
}  // namespace rl4rec
