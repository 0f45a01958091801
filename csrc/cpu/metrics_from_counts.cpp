// metrics_from_counts. Defined in rl4rec_kernels/ops/reference.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "check.h"
#include "cpu/metrics.h"

namespace rl4rec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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
    return torch::stable::contiguous(tensor);
  };
  const Tensor owners[] = {column(above, "counts.above"), column(tied, "counts.tied"),
                           column(total, "counts.total")};
  const auto data = [&](int i) { return static_cast<const int64_t*>(owners[i].const_data_ptr()); };
  struct {
    const int64_t *above, *tied, *total;
  } counts{data(0), data(1), data(2)};
  return metrics(counts, rows, above);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rl4rec, m) {
  m.def(
      "metrics_from_counts(Tensor above, Tensor tied, Tensor total, int[] kinds, int[] cutoffs, "
      "int ties) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(rl4rec, CPU, m) {
  m.impl("metrics_from_counts", TORCH_BOX(&metrics_from_counts));
}

}  // namespace rl4rec
