// Metrics of one relevant item as functions of its rank counts: every formula and tie rule, for C++
// and CUDA (metrics_of_targets.h has those of several). Computed in float64. Defined in
// rl4rec_kernels/ops/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "check.h"

#ifdef __CUDACC__
#define RL4REC_DEVICE __device__
#else
#define RL4REC_DEVICE
#endif

namespace rl4rec {

// Numbered as Kind and Ties in rl4rec_kernels/metrics.py.
enum Kind : int64_t {
  kNdcg,
  kHit,
  kMrr,
  kAuc,
  kLogRank,
  kRank,
  kRecall,
  kPrecision,
  kMap,
  kNumKinds
};
enum Ties : int64_t { kOptimistic, kPessimistic, kAverage, kExpected, kNumTies };

// Metric m of a call is kinds[m], cut off at rank cutoffs[m].
inline void check_metrics(const std::vector<int64_t>& kinds, const std::vector<int64_t>& cutoffs,
                          int64_t ties) {
  check(kinds.size() == cutoffs.size(), "kinds and cutoffs must have the same length, got ",
        kinds.size(), " and ", cutoffs.size());
  for (const int64_t kind : kinds)
    check(0 <= kind && kind < kNumKinds, "unknown metric kind ", kind);
  check(0 <= ties && ties < kNumTies, "unknown tie rule ", ties);
}

// A metric at rank `rank` (1 is best) among `total` candidates. A target without competitors has
// the best value.
RL4REC_DEVICE inline double metric_at(int64_t kind, int64_t cutoff, double rank, double total) {
  const bool within = rank <= static_cast<double>(cutoff);
  switch (kind) {
    case kNdcg: return within ? 1.0 / std::log2(1.0 + rank) : 0.0;
    case kHit: return within ? 1.0 : 0.0;
    case kMrr: return within ? 1.0 / rank : 0.0;
    case kAuc: return total > 1 ? (total - rank) / (total - 1) : 1.0;
    case kLogRank: return total > 1 ? 1.0 - std::log(rank) / std::log(total) : 1.0;
    default: return rank;
  }
}

// The logarithmic integral of x > 1, up to a constant (Abramowitz & Stegun 5.1.10).
RL4REC_DEVICE inline double log_integral(double x) {
  const double log_x = std::log(x);
  double sum = std::log(log_x), term = 1.0;
  for (int k = 1; term > 1e-17 * sum; ++k) {
    term *= log_x / k;
    sum += term / k;
  }
  return sum;
}

// metric_at(1) + ... + metric_at(n) without cut-off, up to a constant: the Euler-Maclaurin formula
// for NDCG (n >= 64), 6.3.18 of Abramowitz & Stegun for MRR and 6.1.41 for LogRank (n >= 0; both
// series are taken at a larger n, from which the terms in between are subtracted).
RL4REC_DEVICE inline double sum_of_metric(int64_t kind, double n, double total) {
  if (kind == kNdcg) {
    const double log_rank = std::log(n + 1), derivative = 1 / ((n + 1) * log_rank * log_rank);
    return std::log(2.0) * (log_integral(n + 1) + 1 / (2 * log_rank) - derivative / 12);
  }
  if (kind == kMrr) {
    const double x = n + 16, square = x * x;
    double sum = std::log(x) + 1 / (2 * x) - 1 / (12 * square) + 1 / (120 * square * square);
    for (int i = 0; i < 16; ++i) sum -= 1 / (x - i);
    return sum;
  }
  const double x = n + 8, square = x * x;
  double product = 1.0;
  for (int i = 0; i < 8; ++i) product *= x - i;
  const double log_factorial = (x + 0.5) * std::log(x) - x - std::log(product) + 1 / (12 * x) -
                               1 / (360 * x * square) + 1 / (1260 * x * square * square);
  return total > 1 ? n - log_factorial / std::log(total) : n;
}

// Lanes, as mean_metric takes them, of a thread that works alone.
struct OneLane {
  RL4REC_DEVICE int64_t index() const { return 0; }
  RL4REC_DEVICE int64_t count() const { return 1; }
  RL4REC_DEVICE double sum(double value) const { return value; }
};

// The mean over the ranks first ... last. Long ranges, such as those of a constant model over a
// whole catalog, take closed forms. `lanes` share the terms of short ones, see below.
template <typename Lanes>
RL4REC_DEVICE double mean_metric(int64_t kind, int64_t cutoff, int64_t first, int64_t last,
                                 double total, const Lanes& lanes) {
  constexpr int64_t kLong = 64;
  const double size = static_cast<double>(last - first + 1);
  if (kind == kAuc || kind == kRank)
    return metric_at(kind, cutoff, static_cast<double>(first + last) / 2.0, total);
  const int64_t end = kind == kLogRank || last < cutoff ? last : cutoff;  // 0 after it
  if (kind == kHit) return end < first ? 0.0 : static_cast<double>(end - first + 1) / size;
  const bool is_long = end - first > kLong;
  const int64_t num_terms = !is_long ? end - first + 1 : kind == kNdcg ? kLong : 0;
  double sum = 0.0;
  for (int64_t i = lanes.index(); i < num_terms; i += lanes.count())
    sum += metric_at(kind, cutoff, static_cast<double>(first + i), total);
  sum = lanes.sum(sum);
  if (is_long)
    sum += sum_of_metric(kind, static_cast<double>(end), total) -
           sum_of_metric(kind, static_cast<double>(first + num_terms - 1), total);
  return sum / size;
}

// What a metric of several relevant items is with one, but for precision, which is divided by k.
RL4REC_DEVICE inline int64_t kind_of_one(int64_t kind) {
  return kind == kRecall || kind == kPrecision ? kHit : kind == kMap ? kMrr : kind;
}

// A metric of a row; NaN if the row is marked as bad by a negative total. `lanes` are the threads
// that share the call: index() is this one's, of count(); sum(x) adds x over all.
template <typename Lanes>
RL4REC_DEVICE float metric_of(int64_t kind, int64_t cutoff, int64_t ties, int64_t above,
                              int64_t tied, int64_t total, const Lanes& lanes) {
  if (total < 0) return NAN;
  const double unit = kind == kPrecision ? static_cast<double>(cutoff) : 1.0;
  kind = kind_of_one(kind);
  const int64_t best = 1 + above;
  const double among = static_cast<double>(total), others = static_cast<double>(tied);
  if (ties == kExpected)
    return static_cast<float>(mean_metric(kind, cutoff, best, best + tied, among, lanes) / unit);
  const double shift = ties == kOptimistic ? 0.0 : ties == kPessimistic ? others : others / 2.0;
  return static_cast<float>(metric_at(kind, cutoff, static_cast<double>(best) + shift, among) /
                            unit);
}

}  // namespace rl4rec
