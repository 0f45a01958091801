// The loops over one row that row_kernels.cpp and rounding_kernels.cpp share: vectors of floats,
// however the row is stored, and their sums. Only these files include it: everything here is in an
// anonymous namespace of the level that is compiled.
#pragma once

#include "cpu/levels.h"
#include "cpu/vectors.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

constexpr int kWidth = kVectorBytes / sizeof(float);
constexpr int kParts = kStep / kWidth;

using Floats [[gnu::vector_size(kVectorBytes)]] = float;
using Words [[gnu::vector_size(kVectorBytes)]] = uint32_t;
using Halves [[gnu::vector_size(kVectorBytes / 2)]] = uint16_t;

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename V>
V load_unaligned(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

inline Floats load(const float* p) { return load_unaligned<Floats>(p); }

// GCC 12 compiles the widening to one instruction only if it is spelled out.
inline Words load_words(const void* p) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32(load_unaligned<__m256i>(p));
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32(load_unaligned<__m128i>(p));
#else
  return __builtin_convertvector(load_unaligned<Halves>(p), Words);
#endif
}

inline Floats load(const BFloat16* p) { return (Floats)(load_words(p) << 16); }

inline Floats load(const Float16* p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(load_unaligned<__m256i>(p));
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(load_unaligned<__m128i>(p));
#else
  // Shift exponent and mantissa into position, and let a multiplication by 2^112 correct the
  // exponent's bias: subnormals are exact that way. Infinities and NaN get the full exponent.
  const Words half = load_words(p);
  const Words magnitude = (half & 0x7fff) << 13;
  const Floats scaled = (Floats)magnitude * 0x1p112f;
  const Words special = (Words)((half & 0x7c00) == 0x7c00);
  return (Floats)((special & (magnitude | 0x7f800000)) | (~special & (Words)scaled) |
                  ((half & 0x8000) << 16));
#endif
}

// The last, incomplete step of a row, padded with zeros, which do not change a sum.
template <typename T>
struct Tail {
  alignas(kVectorBytes) T values[kStep];
  Tail(const T* from, int64_t count) {
    for (int i = 0; i < kStep; ++i) values[i] = T{};
    __builtin_memcpy(values, from, count * sizeof(T));
  }
};

// Calls fn(step, j) for every step of a row, from value j on, the last one padded with zeros.
template <typename T, typename Fn>
[[gnu::always_inline]] inline void for_each_step(const T* row, int64_t dim, const Fn& fn) {
  const int64_t whole = dim - dim % kStep;
  for (int64_t j = 0; j < whole; j += kStep) fn(row + j, j);
  if (whole < dim) fn(Tail<T>(row + whole, dim - whole).values, whole);
}

using Floats4 [[gnu::vector_size(16)]] = float;
using Floats8 [[gnu::vector_size(32)]] = float;
using Floats16 [[gnu::vector_size(64)]] = float;

// Combines the lanes of a vector, its upper half with its lower one, until one is left.
template <typename Combine>
[[gnu::always_inline]] inline float fold(const Floats4& v, const Combine& combine) {
  return combine(combine(v[0], v[2]), combine(v[1], v[3]));
}
template <typename Combine>
[[gnu::always_inline]] inline float fold(const Floats8& v, const Combine& combine) {
  return fold(
      combine(__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)),
      combine);
}
template <typename Combine>
[[gnu::always_inline]] inline float fold(const Floats16& v, const Combine& combine) {
  return fold(combine(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                      __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)),
              combine);
}

// kStep partial sums. All loops over them are unrolled, so that they stay in registers.
struct Sums {
  Floats parts[kParts] = {};

  template <typename T>
  [[gnu::always_inline]] void multiply_add(const float* query, const T* row) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) parts[p] += load(query + p * kWidth) * load(row + p * kWidth);
  }

  // Adds pairwise. The pairs are the same for every vector width.
  [[gnu::always_inline]] float total() const {
    Floats folded[kParts];
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) folded[p] = parts[p];
#pragma GCC unroll 4
    for (int half = kParts / 2; half > 0; half /= 2)
#pragma GCC unroll 4
      for (int p = 0; p < half; ++p) folded[p] += folded[p + half];
    return fold(folded[0], [](const auto& a, const auto& b) { return a + b; });
  }
};

// The square root of a sum of `dim` squares, rounded up: for the sum's own roundings, and for
// squares that underflowed. Infinite if it is not finite, or huge.
inline float length(const Sums& squares, int64_t dim) {
  const float sum = squares.total(), terms = static_cast<float>(dim);
  const float length =
      __builtin_sqrtf((sum + terms * 0x1p-125f) * (1.0f + (terms / kStep + 16.0f) * 0x1p-23f));
  return length < 1e18f ? length * (1.0f + 0x1p-22f) : __builtin_inff();
}

}  // namespace
}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
