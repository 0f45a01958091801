// Rank metrics of one relevant item from its counts, on the device, in float64. The definitions
// stand in rl4rec_kernels/ops/reference.py, the same formulas for the CPU in csrc/cpu/metrics.cpp.
#pragma once

#include "cuda/counts.cuh"

namespace rl4rec {

// Numbered as Kind and Ties in rl4rec_kernels/metrics.py.
enum Kind : int { kNdcg, kHit, kMrr, kAuc, kLogRank, kRank, kNumKinds };
enum Ties : int { kOptimistic, kPessimistic, kAverage, kExpected, kNumTies };

constexpr int kMaxMetrics = 64;  // of one call: they are passed by value

struct MetricList {
  int64_t cutoffs[kMaxMetrics];
  int kinds[kMaxMetrics];
  int count, ties;
};

// A metric at rank `rank` (1 is best) among `total` candidates.
__device__ inline double metric_at(int kind, int64_t cutoff, double rank, double total) {
  const bool within = rank <= static_cast<double>(cutoff);
  switch (kind) {
    case kNdcg: return within ? 1.0 / log2(1.0 + rank) : 0.0;
    case kHit: return within ? 1.0 : 0.0;
    case kMrr: return within ? 1.0 / rank : 0.0;
    // A target without competitors has the best rank there is.
    case kAuc: return total > 1 ? (total - rank) / (total - 1) : 1.0;
    case kLogRank: return total > 1 ? 1.0 - log(rank) / log(total) : 1.0;
    default: return rank;
  }
}

// 1 + 1/2 + ... + 1/n but for a constant, for n >= 64 (Abramowitz & Stegun 6.3.18).
__device__ inline double harmonic(double n) {
  const double square = n * n;
  return log(n) + 1 / (2 * n) - 1 / (12 * square) + 1 / (120 * square * square);
}

// log(1) + log(2) + ... + log(n) but for a constant, for n >= 64 (Abramowitz & Stegun 6.1.41).
__device__ inline double log_factorial(double n) {
  return (n + 0.5) * log(n) - n + 1 / (12 * n) - 1 / (360 * n * n * n);
}

// The mean over the ranks first ... last; a warp shares the terms. Long ranges take a closed form
// where there is one.
__device__ inline double mean_metric(int kind, int64_t cutoff, int64_t first, int64_t last,
                                     double total) {
  constexpr int64_t kLong = 64;
  const double size = static_cast<double>(last - first + 1);
  if (kind == kAuc || kind == kRank)
    return metric_at(kind, cutoff, static_cast<double>(first + last) / 2.0, total);
  const int64_t end = kind == kLogRank || last < cutoff ? last : cutoff;  // all behind is 0
  if (kind == kHit) return end < first ? 0.0 : static_cast<double>(end - first + 1) / size;
  const bool closed = (kind == kMrr || (kind == kLogRank && total > 1)) && end - first > kLong;
  const int64_t one_by_one = !closed ? end : first - 1 > kLong ? first - 1 : kLong;
  double sum = 0.0;
#pragma unroll 1
  for (int64_t rank = first + lane_of_thread(); rank <= one_by_one; rank += kLanes)
    sum += metric_at(kind, cutoff, static_cast<double>(rank), total);
  sum = sum_over_lanes(sum);
  if (closed) {
    const double from = static_cast<double>(one_by_one), to = static_cast<double>(end);
    sum += kind == kMrr ? harmonic(to) - harmonic(from)
                        : to - from - (log_factorial(to) - log_factorial(from)) / log(total);
  }
  return sum / size;
}

// A metric of a row; the whole warp must call with the same arguments. A call of its own, so that
// its registers do not add to those of the scores.
static __device__ __noinline__ float evaluate_metric(int kind, int64_t cutoff, int ties,
                                                     Counts counts) {
  const int64_t best = 1 + counts.above, worst = best + counts.tied;
  const double total = static_cast<double>(counts.total), tied = static_cast<double>(counts.tied);
  if (ties == kExpected) return static_cast<float>(mean_metric(kind, cutoff, best, worst, total));
  const double shift = ties == kOptimistic ? 0.0 : ties == kPessimistic ? tied : tied / 2.0;
  return static_cast<float>(metric_at(kind, cutoff, static_cast<double>(best) + shift, total));
}

}  // namespace rl4rec
