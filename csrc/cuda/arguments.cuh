// Checked arguments of the operators, as the kernels want them. Shapes, dtypes and devices are
// checked here; values only the kernels see.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "cuda/candidates.cuh"

namespace rl4rec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

bool is_float(const Tensor& tensor);  // of a dtype that is served

// A matrix of embeddings whose last dimension is contiguous.
struct Matrix {
  Matrix(const Tensor& tensor, const char* name, int32_t device);

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

// Calls visit(T()) for the matrix's storage T.
template <typename Visit>
void with_storage(const Matrix& matrix, const Visit& visit) {
  switch (matrix.owner.scalar_type()) {
    case ScalarType::Half: return visit(Float16());
    case ScalarType::BFloat16: return visit(BFloat16());
    default: return visit(Float32());
  }
}

// What score, rank and reward take. Makes the device current while it lives.
class CandidateArguments {
 public:
  CandidateArguments(const Tensor& query, const Tensor& table, const Tensor& ids,
                     const std::optional<Tensor>& offsets, const Tensor& bad);

  // Checks the offsets on the device, if there are any. With targets, returns cleared counts for
  // the rows that have more than one chunk, or null if there cannot be one.
  RowCounts* prepare(bool targets);

  // Bytes of shared memory that stage_query needs.
  int64_t shared_bytes() const { return queries.wide ? 0 : padded_dim(queries.dim) * 4; }

  Tensor new_result(std::initializer_list<int64_t> sizes, ScalarType type) const {
    return torch::stable::new_empty(query_.owner, sizes, type);
  }

 private:
  void take_ids();
  void take_queries();

  Tensor ids_;
  std::optional<Tensor> offsets_, wide_, counts_;
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
