// metrics_from_counts. Defined in rl4rec_kernels/ops/reference.py.
#include "cpu/metrics_from_counts.h"

#include "cpu/new_tensor.h"
#include "cpu/parallel.h"
#include "cpu/tuning.h"

namespace rl4rec {

Tensor Metrics::operator()(const int64_t* above, const int64_t* tied, const int64_t* total,
                           int64_t rows) const {
  const int64_t columns = static_cast<int64_t>(kinds_.size());
  const Tensor result = new_tensor(aoti_torch_dtype_float32(), rows, columns);
  float* out = result.mutable_data_ptr<float>();
  parallel_for(0, rows, 1 + kMetricsPerThread / (1 + columns), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t m = 0; m < columns; ++m)
        out[row * columns + m] =
            metric_of(kinds_[m], cutoffs_[m], ties_, above[row], tied[row], total[row], OneLane());
  });
  return result;
}

namespace {

Tensor metrics_from_counts(const Tensor& above, const Tensor& tied, const Tensor& total,
                           const std::vector<int64_t>& kinds, const std::vector<int64_t>& cutoffs,
                           int64_t ties) {
  const Metrics metrics(kinds, cutoffs, ties);
  check(above.dim() == 1, "counts.above must have 1 dimension, got ", above.dim());
  const int64_t rows = above.size(0);
  const auto column = [&](const Tensor& tensor, const char* name) {
    check(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Long, name,
          " must be int64 on the CPU");
    check(tensor.dim() == 1 && tensor.size(0) == rows, name, " must be [", rows,
          "], the shape of counts.above");
    return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);  // which is slow
  };
  const Tensor columns[] = {column(above, "counts.above"), column(tied, "counts.tied"),
                            column(total, "counts.total")};
  const int64_t* values[3];
  for (int i = 0; i < 3; ++i) values[i] = columns[i].const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t a = values[0][row], t = values[1][row], n = values[2][row];
    if (n < 0) continue;  // a row with an unchecked id
    check(a >= 0 && t >= 0 && a < n - t, "counts: row ", row, " has above=", a, ", tied=", t,
          " and total=", n,
          "; none may be negative, and above + tied must be less than total, which counts the "
          "target too");
  }
  return metrics(values[0], values[1], values[2], rows);
}

RL4REC_OPERATOR(metrics_from_counts,
                "(Tensor above, Tensor tied, Tensor total, int[] kinds, int[] cutoffs, int ties) "
                "-> Tensor")

}  // namespace
}  // namespace rl4rec
