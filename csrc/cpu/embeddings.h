// Matrices of embeddings.
#pragma once

#include "cpu/levels.h"
#include "cpu/operator.h"
#include "cpu/settle.h"

namespace rl4rec {

// Of n bfloat16.
Extremes extremes(const uint16_t* values, int64_t n);

// The rows of a matrix [rows, dim] whose last dimension is contiguous.
struct Embeddings {
  // `with_int8` allows quantized embeddings, whose scale the caller takes care of.
  Embeddings(const Tensor& tensor, const char* name, bool with_int8 = false);

  const void* row(int64_t i) const { return data + i * row_bytes; }
  // Writes row i as float32 to `out`, which has room for padded_dim() values.
  void copy_row(int64_t i, float* out) const;
  // Writes row i as bfloat16 to `first`, and what rounding removes to `second` unless that is null,
  // in words of two. Both have room for padded_dim() values. Sets the norm of the rounded row and
  // that of what rounding removes, both rounded up; infinite if the row is not finite, or huge.
  void to_bfloat16(int64_t i, uint32_t* first, uint32_t* second, float* norm, float* error) const;
  // Writes row i as a scale times two int8 each, the second ones worth 1/256 of the first ones.
  // Both have room for padded_dim() bytes.
  void to_split_int8(int64_t i, uint32_t* first, uint32_t* second, float* scale,
                     RowNorms* norms) const;
  // Writes row i as a scale, a power of two, times three int8, the last ones worth 1, and each of
  // the others 256 times the next. The parts are `part_words` words apart, which have room for all
  // values. What this leaves out of a value is at most half the scale, which is about 2^-22 of the
  // row's largest one or less.
  void to_three_int8(int64_t i, uint32_t* words, int64_t part_words, float* scale,
                     RowNorms* norms) const;
  // As to_split_int8, but int16, the scale times 256 first parts plus second parts, for up to
  // kMaxInt8Dim dimensions.
  void to_int16(int64_t i, int16_t* values, float* scale, RowNorms* norms) const;
  // Of row i of a bfloat16 matrix.
  Extremes extremes(int64_t i) const {
    return rl4rec::extremes(static_cast<const uint16_t*>(row(i)), dim);
  }
  int64_t padded_dim() const { return (dim + kStep - 1) / kStep * kStep; }

  Tensor owner;
  const char* data;
  int64_t row_bytes;
  int64_t rows, dim;
  int64_t value_bytes;  // of a value
  Storage storage;
};

void check_same_dim(const Embeddings& queries, const Embeddings& items);

// Writes the first n of `values` to row i of a contiguous tensor of any floating-point dtype.
void store_row(const Tensor& tensor, int64_t i, const float* values, int64_t n);

}  // namespace rl4rec
