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
constexpr int kSumRegisters = kVectorBytes == 64 ? 16 : 8;  // of sums, half of all

using Floats [[gnu::vector_size(kVectorBytes)]] = float;
using Words [[gnu::vector_size(kVectorBytes)]] = uint32_t;
using Halves [[gnu::vector_size(kVectorBytes / 2)]] = uint16_t;
using Integers [[gnu::vector_size(kVectorBytes)]] = int32_t;
using Bytes [[gnu::vector_size(kVectorBytes / 4)]] = int8_t;

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
  for_each_step(from, dim, [&](const T* step, int64_t j) {
    for (int p = 0; p < kParts; ++p) {
      const Floats values = load(step + p * kWidth);
      __builtin_memcpy(out + j + p * kWidth, &values, sizeof(values));
    }
  });
}

// The nearest bfloat16, ties to even, as floats.
Floats nearest_bfloat16(Floats value) {
  const Words bits = (Words)value;
  return (Floats)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
}

void store_bfloat16(Floats value, uint16_t* to) {
  const Halves halves = __builtin_convertvector((Words)value >> 16, Halves);
  __builtin_memcpy(to, &halves, sizeof(halves));
}

// The square root of a sum of `dim` squares, rounded up: for the sum's own roundings, and for
// squares that underflowed. Infinite if it is not finite, or huge.
float length(const Sums& squares, int64_t dim) {
  const float sum = squares.total(), terms = static_cast<float>(dim);
  const float length =
      __builtin_sqrtf((sum + terms * 0x1p-125f) * (1.0f + (terms / kStep + 16.0f) * 0x1p-23f));
  return length < 1e18f ? length * (1.0f + 0x1p-22f) : __builtin_inff();
}

template <typename T>
void to_bfloat16(const void* row, int64_t dim, uint32_t* first, uint32_t* second, float* norm,
                 float* error) {
  const T* from = static_cast<const T*>(row);
  auto* firsts = reinterpret_cast<uint16_t*>(first);
  auto* seconds = reinterpret_cast<uint16_t*>(second);
  Sums norms, errors;
  for_each_step(from, dim, [&](const T* step, int64_t j) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const Floats value = load(step + p * kWidth), near = nearest_bfloat16(value);
      const Floats rest = value - near;
      norms.parts[p] += near * near;
      errors.parts[p] += rest * rest;
      store_bfloat16(near, firsts + j + p * kWidth);
      if (seconds) store_bfloat16(nearest_bfloat16(rest), seconds + j + p * kWidth);
    }
  });
  *norm = length(norms, dim);
  *error = length(errors, dim);
  if (!(*norm < 1e18f && *error < 1e18f)) *norm = *error = __builtin_inff();
}

// The nearest whole number, if its magnitude is below 2^22.
Floats nearest(Floats value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

void store_int8(Floats value, int8_t* to) {
  const Bytes bytes = __builtin_convertvector(__builtin_convertvector(value, Integers), Bytes);
  __builtin_memcpy(to, &bytes, sizeof(bytes));
}

template <typename T>
void to_split_int8(const void* row, int64_t dim, uint32_t* first, uint32_t* second, float* scale,
                   RowNorms* norms) {
  const T* from = static_cast<const T*>(row);
  auto* firsts = reinterpret_cast<int8_t*>(first);
  auto* seconds = reinterpret_cast<int8_t*>(second);
  Floats magnitudes = {};
  for_each_step(from, dim, [&](const T* step, int64_t) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const Floats magnitude = (Floats)((Words)load(step + p * kWidth) & 0x7fffffff);
      magnitudes = magnitudes > magnitude ? magnitudes : magnitude;
    }
  });
  float largest = 0.0f;
  for (int i = 0; i < kWidth; ++i) largest = largest > magnitudes[i] ? largest : magnitudes[i];
  *scale = largest == 0.0f ? 1.0f : largest / 127.0f;
  norms->norm = norms->error = norms->rest = __builtin_inff();
  // Beyond this, products of two scales might not be normal numbers.
  if (largest != 0.0f && !(0x1p-40f < largest && largest < 0x1p40f)) return;

  const float inverse = 1.0f / *scale;
  Sums squares, errors, rests;
  for_each_step(from, dim, [&](const T* step, int64_t j) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const Floats value = load(step + p * kWidth), scaled = value * inverse;
      const Floats one = nearest(scaled), other = nearest((scaled - one) * 256.0f);
      const Floats part = other < 127.0f ? other : other - other + 127.0f;
      const Floats sum = one + part * (1.0f / 256.0f), error = value - *scale * sum;
      squares.parts[p] += sum * sum;
      errors.parts[p] += error * error;
      rests.parts[p] += part * part;
      store_int8(one, firsts + j + p * kWidth);
      store_int8(part, seconds + j + p * kWidth);
    }
  });
  constexpr float kUp = 1.0f + 0x1p-22f;
  const float norm = *scale * length(squares, dim) * kUp;
  const float error = (length(errors, dim) + 0x1p-22f * norm) * kUp;  // with its own rounding
  if (!(norm < 1e18f && error < 1e18f)) return;                       // NaN
  *norms = {norm, error, *scale / 256.0f * length(rests, dim) * kUp};
}

void extremes(const uint16_t* values, int64_t n, uint16_t* least, uint16_t* most) {
  uint16_t low = 0xffff, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t twice = static_cast<uint16_t>(values[i] << 1);  // without the sign
    const uint16_t below = static_cast<uint16_t>(twice - 1);       // the most for zeros
    low = below < low ? below : low;
    high = twice > high ? twice : high;
  }
  *least = low == 0xffff ? low : static_cast<uint16_t>((low + 1) >> 1);
  *most = high >> 1;
}

// Several rows at a time keep more reads under way, and share the loads of the queries.
template <typename T, int kLanes, int kRows>
[[gnu::always_inline]] inline void score_few_rows(const float* queries, const char* rows,
                                                  int64_t stride, int64_t dim, float* scores,
                                                  Sums& squares) {
  const int64_t padded = (dim + kStep - 1) / kStep * kStep, whole = dim - dim % kStep;
  const int64_t ahead = kRows * stride > kStreamAhead ? kRows * stride : kStreamAhead;
  Sums sums[kRows * kLanes];
  const auto add = [&](int r, const T* step, int64_t j, int p) {
    const Floats value = load(step + p * kWidth);
    squares.parts[p] += value * value;
#pragma GCC unroll 8
    for (int l = 0; l < kLanes; ++l)
      sums[r * kLanes + l].parts[p] += load(queries + l * padded + j + p * kWidth) * value;
  };
  for (int64_t j = 0; j < whole; j += kStep) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const T* step = reinterpret_cast<const T*>(rows + r * stride) + j;
        // By numbers: no pointer may go beyond its array, as the last ones would.
        const uintptr_t next = reinterpret_cast<uintptr_t>(step + p * kWidth) + ahead;
        __builtin_prefetch(reinterpret_cast<const void*>(next));
        add(r, step, j, p);
      }
    }
  }
  if (whole < dim) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Tail<T> tail(reinterpret_cast<const T*>(rows + r * stride) + whole, dim - whole);
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) add(r, tail.values, whole, p);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows * kLanes; ++i) scores[i] = sums[i].total();
}

// Every row is loaded once, for all queries and for its length: the rows stream from memory.
template <typename T, int kLanes>
void score_few(const float* queries, const void* rows, int64_t stride, int64_t n, int64_t dim,
               float* scores, float* norm) {
  constexpr int kSums = kSumRegisters / (kLanes * kParts);
  constexpr int kRows = kSums > 4 ? 4 : kSums > 0 ? kSums : 1;
  Sums squares;  // of all rows: one sum is enough for a bound
  const char* row = static_cast<const char*>(rows);
  int64_t r = 0;
  for (; r + kRows <= n; r += kRows)
    score_few_rows<T, kLanes, kRows>(queries, row + r * stride, stride, dim, scores + r * kLanes,
                                     squares);
  for (; r < n; ++r)
    score_few_rows<T, kLanes, 1>(queries, row + r * stride, stride, dim, scores + r * kLanes,
                                 squares);
  *norm = length(squares, n * dim);
}

}  // namespace

void set_row_kernels(Level&);
void set_row_kernels(Level& level) {
  level.rows = {
      {dot_rows<float>, dot_rows<Float16>, dot_rows<BFloat16>},
      {add_rows<float>, add_rows<Float16>, add_rows<BFloat16>},
      {to_float<float>, to_float<Float16>, to_float<BFloat16>},
      {to_bfloat16<float>, to_bfloat16<Float16>, to_bfloat16<BFloat16>},
      {to_split_int8<float>, to_split_int8<Float16>, to_split_int8<BFloat16>},
      extremes,
      {{score_few<float, 1>, score_few<Float16, 1>, score_few<BFloat16, 1>},
       {score_few<float, 2>, score_few<Float16, 2>, score_few<BFloat16, 2>},
       {score_few<float, 4>, score_few<Float16, 4>, score_few<BFloat16, 4>},
       {score_few<float, 8>, score_few<Float16, 8>, score_few<BFloat16, 8>}},
  };
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
