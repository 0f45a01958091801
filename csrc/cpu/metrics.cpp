#include "cpu/metrics.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>

#include "check.h"

namespace rl4rec {
namespace {

// Numbered as Kind and Ties in rl4rec_kernels/metrics.py.
enum Kind : int64_t { kNdcg, kHit, kMrr, kAuc, kLogRank, kRank, kNumKinds };
enum Ties : int64_t { kOptimistic, kPessimistic, kAverage, kExpected, kNumTies };

// A metric of one relevant item at rank `rank` (1 is best) among `total` candidates.
double metric_at(int64_t kind, int64_t cutoff, double rank, double total) {
  switch (kind) {
    case kNdcg: return rank <= cutoff ? 1.0 / std::log2(1.0 + rank) : 0.0;
    case kHit: return rank <= cutoff ? 1.0 : 0.0;
    case kMrr: return rank <= cutoff ? 1.0 / rank : 0.0;
    // A target without competitors has the best rank there is.
    case kAuc: return total > 1 ? (total - rank) / (total - 1) : 1.0;
    case kLogRank: return total > 1 ? 1.0 - std::log(rank) / std::log(total) : 1.0;
    default: return rank;
  }
}

// 1 + 1/2 + ... + 1/n but for a constant, for n >= 64 (Abramowitz & Stegun 6.3.18): the terms left
// out are below 1e-13.
double harmonic(double n) {
  const double square = n * n;
  return std::log(n) + 1 / (2 * n) - 1 / (12 * square) + 1 / (120 * square * square);
}

// The mean over the ranks first ... last. Long ranges, as a constant model has over a whole
// catalog, take a closed form where there is one.
double mean_metric(int64_t kind, int64_t cutoff, int64_t first, int64_t last, double total) {
  constexpr int64_t kLong = 64;
  const double size = static_cast<double>(last - first + 1);
  if (kind == kAuc || kind == kRank) return metric_at(kind, cutoff, (first + last) / 2.0, total);
  if (kind == kLogRank && size > kLong && total > 1)
    return 1.0 - (std::lgamma(last + 1.0) - std::lgamma(static_cast<double>(first))) / size /
                     std::log(total);
  const int64_t end = kind == kLogRank ? last : std::min(last, cutoff);  // all behind is 0
  if (kind == kHit) return std::max<int64_t>(end - first + 1, 0) / size;
  double sum = 0.0;
  const int64_t one_by_one = kind == kMrr && end - first > kLong ? std::max(first - 1, kLong) : end;
  for (int64_t rank = first; rank <= one_by_one; ++rank)
    sum += metric_at(kind, cutoff, rank, total);
  if (one_by_one < end)
    sum += harmonic(static_cast<double>(end)) - harmonic(static_cast<double>(one_by_one));
  return sum / size;
}

}  // namespace

Metrics::Metrics(const std::vector<int64_t>& kinds, const std::vector<int64_t>& cutoffs,
                 int64_t ties)
    : kinds_(kinds), cutoffs_(cutoffs), ties_(ties) {
  check(kinds.size() == cutoffs.size(), "kinds and cutoffs must have the same length");
  for (const int64_t kind : kinds)
    check(0 <= kind && kind < kNumKinds, "unknown metric kind ", kind);
  check(0 <= ties && ties < kNumTies, "unknown tie rule ", ties);
}

torch::stable::Tensor Metrics::new_result(int64_t rows, const torch::stable::Tensor& like) const {
  return torch::stable::new_empty(like, {rows, static_cast<int64_t>(kinds_.size())},
                                  torch::headeronly::ScalarType::Float);
}

void Metrics::evaluate(int64_t above, int64_t tied, int64_t total, float* out) const {
  const int64_t best = 1 + above, worst = best + tied;
  for (size_t m = 0; m < kinds_.size(); ++m) {
    const auto at = [&](double rank) { return metric_at(kinds_[m], cutoffs_[m], rank, total); };
    double value = 0.0;
    switch (ties_) {
      case kOptimistic: value = at(best); break;
      case kPessimistic: value = at(worst); break;
      case kAverage: value = at(best + tied / 2.0); break;
      default: value = mean_metric(kinds_[m], cutoffs_[m], best, worst, total);
    }
    out[m] = static_cast<float>(value);
  }
}

}  // namespace rl4rec
