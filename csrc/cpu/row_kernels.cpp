// Dot products and scaled sums of embedding rows, for one level of CPU features.
//
// The same source is compiled for several levels, with different compiler flags (see
// CMakeLists.txt). All of them keep kStep partial sums and add them in the same order, so that the
// levels with fused multiply-add give the same bits.
//
// No header with inline functions may be included: the linker keeps one copy of such a function,
// possibly one that is compiled for instructions which this machine does not have.

#include "cpu/levels.h"
#include "cpu/tuning.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms in GCC 12's AVX-512 headers
#endif

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kRowsAtOnce = 4;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kRowsAtOnce = 3;
#else
constexpr int kVectorBytes = 16;
constexpr int kRowsAtOnce = 1;
#endif
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

Floats load(const float* p) { return load_unaligned<Floats>(p); }

// GCC 12 compiles the widening to one instruction only if it is spelled out.
Words load_words(const void* p) {
#if defined(__AVX512F__)
  return (Words)_mm512_cvtepu16_epi32(load_unaligned<__m256i>(p));
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32(load_unaligned<__m128i>(p));
#else
  return __builtin_convertvector(load_unaligned<Halves>(p), Words);
#endif
}

Floats load(const BFloat16* p) { return (Floats)(load_words(p) << 16); }

Floats load(const Float16* p) {
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

using Floats4 [[gnu::vector_size(16)]] = float;
using Floats8 [[gnu::vector_size(32)]] = float;
using Floats16 [[gnu::vector_size(64)]] = float;

// Adds the lanes of a vector, its upper half to its lower one, until one is left.
[[maybe_unused, gnu::always_inline]] inline float fold(const Floats4& v) {
  return (v[0] + v[2]) + (v[1] + v[3]);
}
[[maybe_unused, gnu::always_inline]] inline float fold(const Floats8& v) {
  return fold(__builtin_shufflevector(v, v, 0, 1, 2, 3) +
              __builtin_shufflevector(v, v, 4, 5, 6, 7));
}
[[maybe_unused, gnu::always_inline]] inline float fold(const Floats16& v) {
  return fold(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
              __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
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
    return fold(folded[0]);
  }
};

// R rows at once share the loads of the query and keep more reads of memory in flight. `ahead` are
// rows to prefetch, or null. They are prefetched into the L2 cache, which has more reads of memory
// in flight than the L1 cache.
template <typename T, int R>
void dot(const float* query, const T* const* rows, const T* const* ahead, int64_t dim, float* out) {
  Sums sums[R];
  const int64_t whole = dim - dim % kStep;
  for (int64_t j = 0; j < whole; j += kStep) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int64_t line = 0; ahead && line < kStep; line += 64 / sizeof(T))
        __builtin_prefetch(ahead[r] + j + line, 0, 2);
      sums[r].multiply_add(query + j, rows[r] + j);
    }
  }
  if (whole < dim) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
      sums[r].multiply_add(query + whole, Tail<T>(rows[r] + whole, dim - whole).values);
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) out[r] = sums[r].total();
}

template <typename T>
void dot_rows(const float* query, const void* const* rows, int64_t n, int64_t dim, bool prefetch,
              float* out) {
  const T* const* row = reinterpret_cast<const T* const*>(rows);
  const auto ahead = [&](int64_t i) { return prefetch ? row + i + kPrefetchRows : nullptr; };
  int64_t i = 0;
  for (; i + kRowsAtOnce <= n; i += kRowsAtOnce)
    dot<T, kRowsAtOnce>(query, row + i, ahead(i), dim, out + i);
  if constexpr (kRowsAtOnce > 2)
    for (; i + 2 <= n; i += 2) dot<T, 2>(query, row + i, ahead(i), dim, out + i);
  for (; i < n; ++i) dot<T, 1>(query, row + i, ahead(i), dim, out + i);
}

template <typename T>
void add_scaled(float* sum, float scale, const T* row) {
#pragma GCC unroll 8
  for (int p = 0; p < kParts; ++p) {
    const Floats total = load(sum + p * kWidth) + scale * load(row + p * kWidth);
    __builtin_memcpy(sum + p * kWidth, &total, sizeof(total));
  }
}

template <typename T>
void add_rows(float* sum, const float* scale, const void* const* rows, int64_t n, int64_t dim) {
  const int64_t whole = dim - dim % kStep;
  for (int64_t i = 0; i < n; ++i) {
    const T* row = static_cast<const T*>(rows[i]);
    for (int64_t j = 0; j < whole; j += kStep) add_scaled(sum + j, scale[i], row + j);
    if (whole < dim) add_scaled(sum + whole, scale[i], Tail<T>(row + whole, dim - whole).values);
  }
}

template <typename T>
void to_float(const void* row, int64_t dim, float* out) {
  const T* from = static_cast<const T*>(row);
  const auto convert = [&](const T* step, int64_t j) {
    for (int p = 0; p < kParts; ++p) {
      const Floats values = load(step + p * kWidth);
      __builtin_memcpy(out + j + p * kWidth, &values, sizeof(values));
    }
  };
  const int64_t whole = dim - dim % kStep;
  for (int64_t j = 0; j < whole; j += kStep) convert(from + j, j);
  if (whole < dim) convert(Tail<T>(from + whole, dim - whole).values, whole);
}

}  // namespace

void set_row_kernels(Level&);
void set_row_kernels(Level& level) {
  level.rows = {
      {dot_rows<float>, dot_rows<Float16>, dot_rows<BFloat16>},
      {add_rows<float>, add_rows<Float16>, add_rows<BFloat16>},
      {to_float<float>, to_float<Float16>, to_float<BFloat16>},
  };
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
