// What the tensor cores multiply: 16-bit values and int8 as they are, float8 as bfloat16, which has
// all its values, and float32 as bfloat16 parts.
//
// float8 is not multiplied directly: the tensor cores of Hopper add up products of float8 with
// fewer bits than float32 has. Products of int8 are added up in int32, without rounding.
//
// A float32 value is a + b + c but for 2^-27 of it, where a is the nearest bfloat16, b that of the
// rest and c that of what is then left. Of the nine products of two values six are added up: those
// left out, b c', c b' and c c', are about 2^-26 of the product. Where only queries are float32
// there are three products, none of which is left out. Smaller products come first.
//
// Queries that do not stay in shared memory have room for two slices of three parts. The first
// stage of slice k is the (k * kItemParts)-th. When its place is free, so is the stage before slice
// k - 1, kItemParts + 1 stages ago: the last one that used slice k - 2 of the queries.
#pragma once

#include "cuda/sm90/instructions.cuh"

namespace rl4rec {

// What values are multiplied as, in how many parts.
template <typename T>
using Multiplied =
    std::conditional_t<std::is_same_v<T, Float32> || std::is_same_v<T, Float8>, BFloat16, T>;
template <typename T>
constexpr int kParts = std::is_same_v<T, Float32> ? 3 : 1;
// Whether values are made anew before they are multiplied.
template <typename T>
constexpr bool kIsMade = !std::is_same_v<T, Multiplied<T>>;

template <typename QueryType, typename ItemType>
struct Operands {
  using Query = QueryType;
  using Item = ItemType;
  using Product = Multiplied<Query>;
  static_assert(std::is_same_v<Product, Multiplied<Item>>);
  using Sum = std::conditional_t<std::is_same_v<Product, Int8>, int, float>;

  static constexpr bool kScales = sizeof(typename Item::Bits) == 1;
  // Whether items can be brought value by value; others are copied before if they are not aligned.
  static constexpr bool kByValue = sizeof(typename Item::Bits) == 2;
  static constexpr int kQueryParts = kParts<Query>, kItemParts = kParts<Item>;
  static constexpr int kQuerySlices = kQueryParts == 1 ? 4 : 2;
  static constexpr int kStages = kQueryParts == 1 ? kQuerySlices : kItemParts + 1;
};

template <typename T>
__device__ __forceinline__ float value_at(const Rows<T>& rows, int64_t i, int64_t j) {
  Pack<T> pack;
  pack.words[0] = __ldg(rows.row(i) + j);
  return pack[0];
}

// The bits of a part of a value: of the only one, or of the nearest bfloat16 to what is left.
template <typename T>
__device__ __forceinline__ typename Multiplied<T>::Bits part_at(const Rows<T>& rows, int64_t i,
                                                                int64_t j, int part) {
  if constexpr (!kIsMade<T>) {
    return __ldg(rows.row(i) + j);
  } else {
    float left = value_at(rows, i, j);
    uint16_t bits = 0;
    for (int p = 0; p <= part; ++p) {
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(left));
      left -= __uint_as_float(static_cast<uint32_t>(bits) << 16);
    }
    return bits;
  }
}

// All products of a part of a slice of items with parts of the queries, which are `step` bytes from
// each other. `first` is whether it is the first slice.
template <typename Types>
__device__ __forceinline__ void multiply_parts(typename Types::Sum (&d)[kScores], uint32_t queries,
                                               int step, uint32_t items, int part, bool first) {
#pragma unroll
  for (int p = Types::kQueryParts - 1 - part; p >= 0; --p)
    multiply_slice<typename Types::Product>(
        d, queries + p * step, items,
        first && part == Types::kItemParts - 1 && p == Types::kQueryParts - 1 - part);
  commit_products();
}

// Factors of rows of int8 and float8; null where they are 1.
struct Scales {
  const float *query, *item;
};

__device__ __forceinline__ float scale_at(const float* scales, int64_t i) {
  return scales ? __ldg(scales + i) : 1.0f;
}

// By the larger scale first, so that nothing underflows but the result.
__device__ __forceinline__ float scaled(float sum, float a, float b) {
  return sum * (a > b ? a : b) * (a > b ? b : a);
}

}  // namespace rl4rec
