// Metrics of queries with several relevant items, from the counts of each: its rank is its position
// in one list with the others. Every formula is a sum over the targets of a query, in float64.
#pragma once

#include <algorithm>

#include "metrics.h"

namespace rl4rec {

// A target among those of its query. Targets of the same score, and the items tied with them, are
// at the ranks above + 1 ... above + size, in any order.
struct Target {
  int64_t above, size;
  int64_t relevant;  // targets of the same score
  int64_t index;     // of this one among them, from 1
  int64_t before;    // targets above
};

// The rank of a target by a rule other than kExpected. The average is the mean, over all orders, of
// the rank of the index-th target among those of its score.
inline double rank_of(int64_t ties, const Target& t) {
  if (ties == kAverage)
    return static_cast<double>(t.above) + static_cast<double>(t.index) *
                                              static_cast<double>(t.size + 1) /
                                              static_cast<double>(t.relevant + 1);
  return static_cast<double>(t.above + t.index + (ties == kPessimistic ? t.size - t.relevant : 0));
}

// The mean over all orders of a tied group of: whether a target is among its first `n` items.
inline double hit_of_group(const Target& t, int64_t n) {
  double none = 1.0;
  for (int64_t i = 0; i < t.relevant && none > 0.0; ++i)
    none *=
        static_cast<double>(std::max<int64_t>(t.size - n - i, 0)) / static_cast<double>(t.size - i);
  return 1.0 - none;
}

// The mean over all orders of 1 / the rank of the first target, if that is up to `n` in the group.
inline double mrr_of_group(const Target& t, int64_t n) {
  const int64_t end = std::min(n, t.size - t.relevant + 1);
  double sum = 0.0, chance = static_cast<double>(t.relevant) / static_cast<double>(t.size);
  for (int64_t j = 1; j <= end; ++j) {  // `chance` is that of the first target at j
    sum += chance / static_cast<double>(t.above + j);
    if (j < t.size)
      chance *= static_cast<double>(t.size - j - t.relevant + 1) / static_cast<double>(t.size - j);
  }
  return sum;
}

// The mean of precision at the rank of a target of a tied group; 0 after the cut-off. At its j-th
// item a target has `before` + 1 + (j - 1) (relevant - 1) / (size - 1) targets down to it.
inline double precision_of_group(const Target& t, int64_t cutoff, int64_t n, double total) {
  const double size = static_cast<double>(t.size), first = static_cast<double>(t.above + 1);
  const double slope = t.size > 1 ? static_cast<double>(t.relevant - 1) / (size - 1) : 0.0;
  const double mean = mean_metric(kMrr, cutoff, t.above + 1, t.above + t.size, total, OneLane());
  return (static_cast<double>(t.before + 1) - slope * first) * mean +
         slope * static_cast<double>(n) / size;
}

// What a target adds to a metric of its query.
inline double metric_of_target(int64_t kind, int64_t cutoff, int64_t ties, const Target& t,
                               double total) {
  const bool of_first = kind == kHit || kind == kMrr;
  if (of_first && (t.before > 0 || t.index > 1)) return 0.0;
  const int64_t one = kind_of_one(kind);
  if (ties != kExpected) {
    const double rank = rank_of(ties, t), value = metric_at(one, cutoff, rank, total);
    return kind == kMap ? value * static_cast<double>(t.before + t.index) : value;
  }
  const int64_t n = std::clamp<int64_t>(cutoff - t.above, 0, t.size);  // of the group, up to cutoff
  if (of_first && n == 0) return 0.0;
  if (kind == kHit) return hit_of_group(t, n);
  if (kind == kMrr && t.relevant > 1) return mrr_of_group(t, n);
  if (kind == kMap) return n == 0 ? 0.0 : precision_of_group(t, cutoff, n, total);
  return mean_metric(one, cutoff, t.above + 1, t.above + t.size, total, OneLane());
}

// Turns the sum of metric_of_target over the `n` targets of a query into the metric.
inline double scale_metric(int64_t kind, int64_t cutoff, double sum, int64_t n, int64_t total) {
  const double count = static_cast<double>(n), others = static_cast<double>(total - n);
  double ideal = 0.0;
  switch (kind) {
    case kHit:
    case kMrr: return sum;
    case kNdcg:
      for (int64_t i = 1; i <= std::min(n, cutoff); ++i)
        ideal += metric_at(kNdcg, cutoff, static_cast<double>(i), 0.0);
      return sum / ideal;
    case kPrecision: return sum / static_cast<double>(cutoff);
    case kMap: return sum / static_cast<double>(std::min(n, cutoff));
    // The share of pairs of a target and another item that are in order.
    case kAuc:
      return total > n ? (sum * static_cast<double>(total - 1) - count * (count - 1) / 2) /
                             (count * others)
                       : 1.0;
    default: return sum / count;
  }
}

}  // namespace rl4rec
