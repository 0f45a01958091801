// The operators' arguments as the kernels take them, and how an operator is registered. Shapes,
// dtypes and devices are checked here, values in the kernels.
//
// The operators take the arguments of those for the CPU (csrc/cpu) and `bad`, int32 [1], which is 0
// before. Bad values raise no error but set bits of `bad`: 1 for an id that is not in the table or
// a row without a target, 2 for offsets that do not start at 0, fall, or do not end at the number
// of values. Results of such rows are NaN, counts -1. Nothing waits for the device.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "cuda/candidates.cuh"

// Registers the function `name` for tensors on the GPU.
#define RL4REC_CUDA_OPERATOR(name, schema)                                                   \
  STABLE_TORCH_LIBRARY_FRAGMENT(RL4REC_CUDA_LIBRARY, library) { library.def(#name schema); } \
  STABLE_TORCH_LIBRARY_IMPL(RL4REC_CUDA_LIBRARY, RL4REC_CUDA_KEY, library) {                 \
    library.impl(#name, TORCH_BOX(&name));                                                   \
  }

namespace rl4rec {

using OptionalTensor = std::optional<torch::stable::Tensor>;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

bool is_float(const Tensor& tensor);  // of a supported dtype

// A matrix of embeddings whose last dimension is contiguous; some kernels take `quantized` ones.
struct Matrix {
  Matrix(const Tensor& tensor, const char* name, int32_t device, bool quantized = false);

  template <typename T>
  Rows<T> as_rows() const {
    constexpr int kPack = Rows<T>::kPack;
    const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && dim % kPack == 0 &&
                         (rows <= 1 || stride % kPack == 0);
    return {static_cast<const typename T::Bits*>(data), rows, dim, stride, aligned};
  }

  Tensor owner;
  const void* data;
  int64_t rows, dim, stride;
};

// Calls fn(T()) for the matrix's storage T.
template <typename Fn>
void with_storage(const Matrix& matrix, const Fn& fn) {
  switch (matrix.owner.scalar_type()) {
    case ScalarType::Half: return fn(Float16());
    case ScalarType::BFloat16: return fn(BFloat16());
    default: return fn(Float32());
  }
}

// The arguments of the candidate operators. Makes the device current for its lifetime.
class CandidateArguments {
 public:
  CandidateArguments(const Tensor& query, const Tensor& table, const Tensor& ids,
                     const OptionalTensor& offsets, const Tensor& bad);

  // Checks the offsets on the device, if there are any. With targets, returns cleared counts for
  // rows of more than one chunk, or null if there are none.
  RowCounts* prepare(bool targets);

  // Bytes of shared memory that stage_query needs.
  int64_t shared_bytes() const { return queries.padded ? 0 : padded_dim(queries.dim) * 4; }

  Tensor new_result(std::initializer_list<int64_t> sizes, ScalarType type) const {
    return torch::stable::new_empty(query_.owner, sizes, type);
  }

 private:
  void read_ids();
  void read_queries();

  Tensor ids_;
  OptionalTensor offsets_, padded_, counts_;
  int32_t index_;  // of the device

 public:
  const Device device;

 private:
  Matrix query_;

 public:
  Matrix table;
  Queries queries = {};
  Candidates candidates = {};
};

}  // namespace rl4rec
