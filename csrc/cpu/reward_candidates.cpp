// reward_candidates. The definition stands in rl4rec_kernels/ops/reference.py.
#include "cpu/reward_candidates.h"

#include <cmath>

#include "cpu/candidates.h"

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

double metric(int64_t kind, int64_t cutoff, int64_t ties, int64_t above, int64_t tied,
              int64_t total) {
  const double best = 1.0 + above;
  switch (ties) {
    case kOptimistic: return metric_at(kind, cutoff, best, total);
    case kPessimistic: return metric_at(kind, cutoff, best + tied, total);
    case kAverage: return metric_at(kind, cutoff, best + tied / 2.0, total);
    default: {  // expected: the mean over every place among the tied
      double sum = 0.0;
      for (int64_t i = 0; i <= tied; ++i) sum += metric_at(kind, cutoff, best + i, total);
      return sum / (tied + 1);
    }
  }
}

}  // namespace

Tensor reward_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                         const std::optional<Tensor>& offsets, const std::vector<int64_t>& kinds,
                         const std::vector<int64_t>& cutoffs, int64_t ties) {
  const Embeddings queries(query, "query"), items(table, "table");
  check_same_dim(queries, items);
  check(kinds.size() == cutoffs.size(), "kinds and cutoffs must have the same length");
  for (const int64_t kind : kinds)
    check(0 <= kind && kind < kNumKinds, "unknown metric kind ", kind);
  check(0 <= ties && ties < kNumTies, "unknown tie rule ", ties);

  const Counts counts = count_candidates(queries, items, Candidates(ids, offsets, queries.rows));
  const int64_t num_metrics = static_cast<int64_t>(kinds.size());
  const Tensor rewards =
      torch::stable::new_empty(query, {queries.rows, num_metrics}, ScalarType::Float);
  float* out = static_cast<float*>(rewards.mutable_data_ptr());
  for (int64_t row = 0; row < queries.rows; ++row)
    for (int64_t m = 0; m < num_metrics; ++m)
      *out++ = static_cast<float>(metric(kinds[m], cutoffs[m], ties, counts.above[row],
                                         counts.tied[row], counts.total[row]));
  return rewards;
}

}  // namespace rl4rec
