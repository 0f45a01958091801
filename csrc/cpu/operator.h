// Declares and registers an operator where it is defined.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "check.h"

namespace rl4rec {

using OptionalTensor = std::optional<torch::stable::Tensor>;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

}  // namespace rl4rec

// Registers the function `name` as torch.ops.rl4rec.name, for tensors on `key`. Its Python side
// (checks, fake implementation, gradient) is in rl4rec_kernels/ops/.
#define RL4REC_OPERATOR_FOR(key, name, schema)                                  \
  STABLE_TORCH_LIBRARY_FRAGMENT(rl4rec, library) { library.def(#name schema); } \
  STABLE_TORCH_LIBRARY_IMPL(rl4rec, key, library) { library.impl(#name, TORCH_BOX(&name)); }
#define RL4REC_OPERATOR(name, schema) RL4REC_OPERATOR_FOR(CPU, name, schema)
