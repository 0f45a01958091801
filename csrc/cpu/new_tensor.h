// Results of operators.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>

#include "cpu/operator.h"

namespace rl4rec {

// A tensor on the CPU without values: torch::stable::new_empty takes longer than a small call.
inline Tensor new_tensor(int32_t dtype, int64_t rows, int64_t columns = -1) {
  const int64_t sizes[] = {rows, columns};
  const int64_t strides[] = {columns < 0 ? 1 : std::max<int64_t>(columns, 1), 1};
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(columns < 0 ? 1 : 2, sizes, strides, dtype,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

}  // namespace rl4rec
