// metrics_of_targets. Defined in rl4rec_kernels/ops/reference.py.
#include "metrics_of_targets.h"

#include "cpu/candidates.h"
#include "cpu/new_tensor.h"

namespace rl4rec {
namespace {

// Where each target is among those of its query: targets of a query best first, query after query.
std::vector<Target> in_order(const Candidates& queries, const int64_t* above, const int64_t* tied) {
  std::vector<Target> targets(queries.count);
  for (int64_t i = 0; i < queries.count; ++i) targets[i] = {above[i], tied[i] + 1, 0, 0, 0};
  for (int64_t q = 0; q < queries.rows; ++q) {
    Target* own = targets.data() + queries.begin(q);
    const int64_t n = queries.end(q) - queries.begin(q);
    std::sort(own, own + n, [](const Target& a, const Target& b) { return a.above < b.above; });
    for (int64_t i = 0, end; i < n; i = end) {
      for (end = i; end < n && own[end].above == own[i].above; ++end) {
        own[end].before = i;
        own[end].index = end - i + 1;
      }
      for (int64_t j = i; j < end; ++j) own[j].relevant = end - i;
    }
  }
  return targets;
}

// Throws unless there can be a list in which the targets of each query have their counts.
void check_counts(const Candidates& queries, const std::vector<Target>& targets,
                  const int64_t* above, const int64_t* tied, const int64_t* total) {
  for (int64_t q = 0; q < queries.rows; ++q)
    for (int64_t first = queries.begin(q), i = first; i < queries.end(q); ++i) {
      if (total[i] < 0) continue;  // of a query with an unchecked id
      const auto fits = [](int64_t a, int64_t t, int64_t n) {
        return a >= 0 && t >= 0 && a < n - t;
      };
      check(fits(above[i], tied[i], total[i]), "counts: row ", i, " has above=", above[i],
            ", tied=", tied[i], " and total=", total[i],
            "; none may be negative, and above + tied must be less than total, which counts the "
            "target too");
      const Target& t = targets[i];
      check(total[i] == total[first] && t.before <= t.above && t.relevant <= t.size,
            "counts: those of query ", q, " (above=", t.above, ", tied=", t.size - 1,
            ", total=", total[i],
            ") are not of targets in one list; pass what rank_catalog returns");
    }
}

// Metrics [B, M] of queries from the counts of all their targets, query after query; NaN for a
// query without targets, or with a total that is negative.
Tensor metrics_of_targets(const Tensor& above, const Tensor& tied, const Tensor& total,
                          const Tensor& offsets, const std::vector<int64_t>& kinds,
                          const std::vector<int64_t>& cutoffs, int64_t ties) {
  check_metrics(kinds, cutoffs, ties);
  const int64_t rows = offsets.size(0) - 1, columns = static_cast<int64_t>(kinds.size());
  const Candidates targets(above, offsets, rows, "counts.above");  // checks offsets
  const Tensor parts[] = {targets.ids_owner, torch::stable::contiguous(tied),
                          torch::stable::contiguous(total)};
  const int64_t* counts[3];
  for (int i = 0; i < 3; ++i) {
    check(parts[i].is_cpu() && parts[i].scalar_type() == ScalarType::Long &&
              parts[i].numel() == targets.count,
          "counts must be three int64 tensors [", targets.count, "] on the CPU");
    counts[i] = parts[i].const_data_ptr<int64_t>();
  }
  const std::vector<Target> ordered = in_order(targets, counts[0], counts[1]);
  check_counts(targets, ordered, counts[0], counts[1], counts[2]);
  const Tensor result = new_tensor(aoti_torch_dtype_float32(), rows, columns);
  float* out = result.mutable_data_ptr<float>();
  parallel_for(0, rows, 1 + kMetricsPerThread / (1 + columns), [&](int64_t begin, int64_t end) {
    for (int64_t q = begin; q < end; ++q) {
      const int64_t first = targets.begin(q), n = targets.end(q) - first;
      const int64_t* total_of = counts[2] + first;
      if (n == 0 || *std::min_element(total_of, total_of + n) < 0) {
        std::fill_n(out + q * columns, columns, NAN);
        continue;
      }
      for (int64_t m = 0; m < columns; ++m) {
        double sum = 0.0;
        for (int64_t i = first; i < first + n; ++i)
          sum += metric_of_target(kinds[m], cutoffs[m], ties, ordered[i],
                                  static_cast<double>(*total_of));
        out[q * columns + m] =
            static_cast<float>(scale_metric(kinds[m], cutoffs[m], sum, n, *total_of));
      }
    }
  });
  return result;
}

RL4REC_OPERATOR(metrics_of_targets,
                "(Tensor above, Tensor tied, Tensor total, Tensor offsets, int[] kinds, "
                "int[] cutoffs, int ties) -> Tensor")

}  // namespace
}  // namespace rl4rec
