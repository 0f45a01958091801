// The kernels that make the factors of product_kernels.cpp. As in row_kernels.cpp, no header with
// inline functions may be included.
#include "cpu/levels.h"
#include "cpu/vectors.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

// Spelled out where the compiler finds another way to use vectors.
using Floats [[gnu::vector_size(64)]] = float;
using Words [[gnu::vector_size(64)]] = int32_t;
using Halves [[gnu::vector_size(32)]] = int16_t;

[[gnu::always_inline]] inline Floats load(const float* from) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof(values));
  return values;
}
template <typename Vector, typename To>
[[gnu::always_inline]] inline void store(To* to, const Vector& values) {
  __builtin_memcpy(to, &values, sizeof(values));
}

// The nearest bfloat16 of two vectors, ties to even: one by one, and in words of two, the even one
// in the lower half.
struct Nearest {
  Words words;
  Halves even, odd;
};
[[gnu::always_inline]] inline Nearest nearest_bfloat16(const Floats& even, const Floats& odd) {
#if defined(__AVX512BF16__)
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return {(Words)_mm512_permutexvar_epi16(order, both), (Halves)_mm512_castsi512_si256(both),
          (Halves)_mm512_extracti64x4_epi64(both, 1)};
#else
  const auto upper = [](const Floats& value) {
    const Words bits = (Words)value, near = bits + 0x7fff + ((bits >> 16) & 1);
    return (value == value ? near : bits | 0x400000) & (int32_t)0xffff0000;  // NaN stays
  };
  const Words low = (upper(even) >> 16) & 0xffff, high = upper(odd);
  return {low | high, __builtin_convertvector(low, Halves),
          __builtin_convertvector(high >> 16, Halves)};
#endif
}

[[gnu::always_inline]] inline Floats rest_of(const Floats& value, const Words& near) {
  const Floats rest = value - (Floats)near;
  return rest - rest == 0.0f ? rest : Floats{};
}
[[gnu::always_inline]] inline Nearest nearest_rests(const Floats& even, const Floats& odd,
                                                    const Words& near) {
  return nearest_bfloat16(rest_of(even, near << 16), rest_of(odd, near & (int32_t)0xffff0000));
}

void split(const float* values, int64_t n, uint16_t* first, uint16_t* second) {
  for (int64_t i = 0; i < n; i += kProductVector) {
    const Floats value = load(values + i);
    const Nearest near = nearest_bfloat16(value, value);
    store(first + i, near.even);
    if (second) store(second + i, nearest_rests(value, value, near.words).even);
  }
}

void split_pairs(const float* even, const float* odd, int64_t n, uint32_t* first, uint32_t* second,
                 int64_t vector_stride) {
  for (int64_t i = 0; i < n; i += kProductVector) {
    const Floats low = load(even + i), high = load(odd + i);
    const Nearest near = nearest_bfloat16(low, high);
    const int64_t to = i / kProductVector * vector_stride;
    store(first + to, near.words);
    if (second) store(second + to, nearest_rests(low, high, near.words).words);
  }
}

void split_tile(const float* values, int64_t num_rows, int64_t lanes, const SplitTile& to) {
  const auto write = [&](int part, int64_t r, int64_t l, const Nearest& near) {
    if (to.rows[part]) {
      store(to.rows[part] + r * to.row_stride + l, near.even);
      store(to.rows[part] + (r + 1) * to.row_stride + l, near.odd);
    }
    if (to.panel[part])
      store(to.panel[part] + l / kProductVector * to.vector_stride + r / 2 * kProductVector,
            near.words);
  };
  const bool has_second = to.rows[1] || to.panel[1];
  for (int64_t r = 0; r < num_rows; r += 2)
    for (int64_t l = 0; l < lanes; l += kProductVector) {
      const Floats even = load(values + r * lanes + l), odd = load(values + (r + 1) * lanes + l);
      const Nearest near = nearest_bfloat16(even, odd);
      write(0, r, l, near);
      if (has_second) write(1, r, l, nearest_rests(even, odd, near.words));
    }
}

void split_columns(const float* rows, int64_t row_stride, int64_t dim, uint16_t* first,
                   uint16_t* second, int64_t column_stride) {
  const auto column = [&](int64_t d) {
#if defined(__AVX512F__)
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i at = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(row_stride)));
    return (Floats)_mm512_i32gather_ps(at, rows + d, 4);
#else
    Floats values{};
    for (int i = 0; i < kProductVector; ++i) values[i] = rows[i * row_stride + d];
    return values;
#endif
  };
  for (int64_t d = 0; d < dim; d += 2) {
    const Floats even = column(d), odd = column(d + 1);
    const Nearest near = nearest_bfloat16(even, odd);
    store(first + d * column_stride, near.even);
    store(first + (d + 1) * column_stride, near.odd);
    if (!second) continue;
    const Nearest rest = nearest_rests(even, odd, near.words);
    store(second + d * column_stride, rest.even);
    store(second + (d + 1) * column_stride, rest.odd);
  }
}

using Bytes [[gnu::vector_size(16)]] = int8_t;
[[gnu::always_inline]] inline Bytes low_bytes(const Words& words) {
#if defined(__AVX512F__)
  return (Bytes)_mm512_cvtepi32_epi8((__m512i)words);
#else
  return __builtin_convertvector(words, Bytes);
#endif
}

float power_of_two(int exponent) {
  const int32_t bits = (exponent + 127) << 23;
  float power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return power;
}

// The row as whole numbers of up to kMost, whose digits to the base 256 are the parts.
void split_three(const float* values, int64_t dim, const Int8Parts& parts, float* scale,
                 RowNorms* norms) {
  constexpr int32_t kMost = 0x7f7f7f, kOne = 0x3f800000;
  Words magnitudes{};  // as whole numbers, of which NaN has the largest
  for (int64_t i = 0; i < dim; i += kProductVector) {
    const Words magnitude = (Words)load(values + i) & 0x7fffffff;
    magnitudes = magnitudes > magnitude ? magnitudes : magnitude;
  }
  int32_t largest = 0;
  for (int i = 0; i < kProductVector; ++i)
    largest = largest > magnitudes[i] ? largest : magnitudes[i];
  // kMost is just below 2^23: the largest value is below 2^exponent, or a bit more below.
  const int32_t exponent = (largest - kOne + (1 << 24) - 2 * kMost) >> 23;
  // Beyond these, scales and products of two of them might not be normal numbers.
  constexpr int kMin = -60, kMax = 40;
  *scale = 1.0f;
  *norms = {__builtin_inff(), 0.0f, __builtin_inff()};
  if (exponent >= kMax) return;
  const int power = (exponent > kMin ? exponent : kMin) - 22;
  *scale = power_of_two(power);
  const float inverse = power_of_two(-power);

  constexpr float kRounding = 0x1.8p23f;  // added and subtracted, it leaves a whole number
  constexpr uint32_t kBits = 0x4b400000;
  using Unsigned [[gnu::vector_size(64)]] = uint32_t;  // may overflow
  Floats squares{};
  for (int64_t i = 0; i < dim; i += kProductVector) {
    const Floats value = load(values + i) * inverse;
    const Floats high = value * 0x1p-16f + kRounding;
    const Floats low = (value - (high - kRounding) * 0x1p16f) + kRounding;
    squares += value * value;
    const Words third = (Words)(((Unsigned)high << 16) + (Unsigned)low - ((kBits << 16) + kBits));
    const Words second = (third + 128) >> 8, first = (second + 128) >> 8;
    store(parts.part[0] + i, low_bytes(first));
    store(parts.part[1] + i, low_bytes(second));
    store(parts.part[2] + i, low_bytes(third));
  }
  float sum = 0.0f;
  for (int i = 0; i < kProductVector; ++i) sum += squares[i];
  const auto terms = static_cast<float>(dim);
  float most;
  __builtin_memcpy(&most, &largest, sizeof(most));
  norms->norm = *scale * __builtin_sqrtf(sum * (1.0f + (terms / 16 + 32.0f) * 0x1p-23f));
  norms->rest = most * __builtin_sqrtf(terms) * (1.0f + 0x1p-22f);
}

}  // namespace

void set_split_kernels(Level&);
void set_split_kernels(Level& level) {
  level.splits = {split, split_pairs, split_tile, split_columns, split_three};
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
