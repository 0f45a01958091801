// Checked views of matrices of embeddings.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "check.h"
#include "cpu/simd.h"

namespace rl4rec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Rows of a [rows, dim] matrix of embeddings whose last dimension is contiguous.
struct Embeddings {
  // `with_int8` allows quantized embeddings, whose scale is the caller's business.
  Embeddings(const Tensor& tensor, const char* name, bool with_int8 = false);

  const void* row(int64_t i) const { return data + i * row_bytes; }
  // Writes row i as float32 to `out`, which has room for padded_dim() values.
  void copy_row(int64_t i, float* out) const;
  int64_t padded_dim() const { return (dim + kStep - 1) / kStep * kStep; }

  Tensor owner;
  const char* data;
  int64_t row_bytes;
  int64_t rows, dim;
  Storage storage;
};

void check_same_dim(const Embeddings& queries, const Embeddings& items);

// Writes the first n of `values` to row i of a contiguous tensor of any floating-point dtype.
void store_row(const Tensor& tensor, int64_t i, const float* values, int64_t n);

}  // namespace rl4rec
