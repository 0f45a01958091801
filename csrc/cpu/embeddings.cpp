#include "cpu/embeddings.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

namespace rl4rec {
namespace {

Storage storage_of(const Tensor& tensor, const char* name, bool with_int8 = false) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return kFloat32;
    case ScalarType::Half: return kFloat16;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Char:
      if (with_int8) return kInt8;
      [[fallthrough]];
    default:
      throw std::invalid_argument(std::string(name) + " must be float32, float16 or bfloat16" +
                                  (with_int8 ? ", or quantized to int8, on the CPU" : ""));
  }
}

// (A tensor that is assigned later is first made without a value, which takes time.)
Tensor with_contiguous_rows(const Tensor& tensor, const char* name) {
  check(tensor.is_cpu(), name, " must be on the CPU");
  check(tensor.dim() == 2, name, " must have 2 dimensions, got ", tensor.dim());
  if (tensor.size(1) > 1 && tensor.stride(1) != 1) return torch::stable::contiguous(tensor);
  return tensor;
}

template <typename T>
void store_as(void* to, const float* values, int64_t n) {
  for (int64_t j = 0; j < n; ++j) static_cast<T*>(to)[j] = static_cast<T>(values[j]);
}

}  // namespace

Extremes extremes(const uint16_t* values, int64_t n) {
  uint16_t least, most;
  level().rounding.extremes(values, n, &least, &most);
  using torch::headeronly::BFloat16;
  const auto to_float = [](uint16_t bits) -> float {
    return BFloat16(bits, BFloat16::from_bits());
  };
  return {least == 0xffff ? std::numeric_limits<float>::infinity() : to_float(least),
          to_float(most)};
}

Embeddings::Embeddings(const Tensor& tensor, const char* name, bool with_int8)
    : owner(with_contiguous_rows(tensor, name)) {
  storage = storage_of(tensor, name, with_int8);
  rows = owner.size(0);
  dim = owner.size(1);
  data = static_cast<const char*>(owner.const_data_ptr());
  value_bytes = static_cast<int64_t>(owner.element_size());
  row_bytes = owner.stride(0) * value_bytes;
}

void Embeddings::copy_row(int64_t i, float* out) const {
  if (storage != kInt8) return level().rows.to_float[storage](row(i), dim, out);
  const int8_t* from = static_cast<const int8_t*>(row(i));
  std::copy(from, from + dim, out);
  std::fill(out + dim, out + padded_dim(), 0.0f);
}

void Embeddings::to_bfloat16(int64_t i, uint32_t* first, uint32_t* second, float* norm,
                             float* error) const {
  level().rounding.to_bfloat16[storage](row(i), dim, first, second, norm, error);
}

void Embeddings::to_split_int8(int64_t i, uint32_t* first, uint32_t* second, float* scale,
                               RowNorms* norms) const {
  level().rounding.to_split_int8[storage](row(i), dim, first, second, scale, norms);
}

void Embeddings::to_three_int8(int64_t i, uint32_t* words, int64_t part_words, float* scale,
                               RowNorms* norms) const {
  const auto* values = static_cast<const float*>(row(i));
  if (storage != kFloat32 || dim % kProductVector != 0) {
    thread_local std::vector<float> copy;
    copy.resize(padded_dim());
    copy_row(i, copy.data());
    values = copy.data();
  }
  auto* bytes = reinterpret_cast<int8_t*>(words);
  level().splits.split_three(values, dim, {{bytes, bytes + 4 * part_words, bytes + 8 * part_words}},
                             scale, norms);
}

void Embeddings::to_int16(int64_t i, int16_t* values, float* scale, RowNorms* norms) const {
  alignas(64) uint32_t first[kMaxInt8Dim / 4], second[kMaxInt8Dim / 4];
  to_split_int8(i, first, second, scale, norms);
  const auto* a = reinterpret_cast<const int8_t*>(first);
  const auto* b = reinterpret_cast<const int8_t*>(second);
  for (int64_t j = 0; j < padded_dim(); ++j) values[j] = static_cast<int16_t>(256 * a[j] + b[j]);
  *scale *= 1.0f / 256;
}

void check_same_dim(const Embeddings& queries, const Embeddings& items) {
  check(queries.dim == items.dim, "query has ", queries.dim, " dimensions, table ", items.dim);
}

void store_row(const Tensor& tensor, int64_t i, const float* values, int64_t n) {
  char* to = static_cast<char*>(tensor.mutable_data_ptr()) + i * n * tensor.element_size();
  switch (storage_of(tensor, "gradient")) {
    case kFloat16: return store_as<torch::headeronly::Half>(to, values, n);
    case kBFloat16: return store_as<torch::headeronly::BFloat16>(to, values, n);
    default: return store_as<float>(to, values, n);
  }
}

}  // namespace rl4rec
