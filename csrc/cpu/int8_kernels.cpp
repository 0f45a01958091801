// Dot products with rows of int8, for one level of CPU features. As in row_kernels.cpp, no header
// with inline functions may be included.

#include <immintrin.h>

#include "cpu/levels.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

using Floats4 [[gnu::vector_size(16)]] = float;
using Floats8 [[gnu::vector_size(32)]] = float;
using Words8 [[gnu::vector_size(32)]] = int32_t;

// 32 products, added up in lanes of int32.
#if defined(__AVX512BW__)
struct Lanes {
  __m512i sums = _mm512_setzero_si512();

  void multiply_add(const int16_t* query, const int8_t* row) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
    const __m512i values = _mm512_cvtepi8_epi16(bytes), factors = _mm512_loadu_si512(query);
#if defined(__AVX512VNNI__)
    // Not the intrinsic, around which GCC 12 copies the sums from register to register.
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(values), "v"(factors));
#else
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(values, factors));
#endif
  }
  Floats8 folded() const {
    using Floats16 [[gnu::vector_size(64)]] = float;
    using Words16 [[gnu::vector_size(64)]] = int32_t;
    const Floats16 v = __builtin_convertvector((Words16)sums, Floats16);
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  }
};
#else
struct Lanes {
  __m256i sums = _mm256_setzero_si256();

  void multiply_add(const int16_t* query, const int8_t* row) {
    for (int half = 0; half < 32; half += 16) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + half));
      const __m256i factors = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + half));
      const __m256i products = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), factors);
      sums = _mm256_add_epi32(sums, products);
    }
  }
  Floats8 folded() const { return __builtin_convertvector((Words8)sums, Floats8); }
};
#endif

// Adds neighbours: first those of `a`, then those of `b`, in each half.
[[gnu::always_inline]] inline Floats8 add_pairs(const Floats8& a, const Floats8& b) {
  return __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14) +
         __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
}

// The sums of four.
[[gnu::always_inline]] inline void store_totals(const Lanes* lanes, float* out) {
  const Floats8 sums = add_pairs(add_pairs(lanes[0].folded(), lanes[1].folded()),
                                 add_pairs(lanes[2].folded(), lanes[3].folded()));
  const Floats4 totals = __builtin_shufflevector(sums, sums, 0, 1, 2, 3) +
                         __builtin_shufflevector(sums, sums, 4, 5, 6, 7);
  __builtin_memcpy(out, &totals, sizeof(totals));
}

// Four rows, which share the loads of the query.
void dot4(const int16_t* query, const int8_t* const* rows, int64_t dim, float* out) {
  Lanes lanes[4];
  const int64_t whole = dim - dim % kStep;
  for (int64_t j = 0; j < whole; j += kStep)
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) lanes[r].multiply_add(query + j, rows[r] + j);
  if (whole < dim) {
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      int8_t tail[kStep] = {};
      __builtin_memcpy(tail, rows[r] + whole, dim - whole);
      lanes[r].multiply_add(query + whole, tail);
    }
  }
  store_totals(lanes, out);
}

void dot_int8_rows(const int16_t* query, const void* const* rows, int64_t n, int64_t dim,
                   float* out) {
  const auto* row = reinterpret_cast<const int8_t* const*>(rows);
  for (int64_t i = 0; i < n; i += 4) {
    for (int64_t r = i + kPrefetchInt8Rows; r < i + kPrefetchInt8Rows + 4; ++r)
      for (int64_t line = 0; line < dim; line += 64) __builtin_prefetch(row[r] + line, 0, 2);
    dot4(query, row + i, dim, out + i);
  }
}

// Several rows for one or two queries, one row for more: they share the loads of the rows.
template <int kLanes>
void score_few_int8(const int16_t* queries, const void* rows, int64_t stride, int64_t n,
                    int64_t dim, float* out) {
  constexpr int kRows = kLanes < 4 ? 4 / kLanes : 1;
  const int64_t whole = dim - dim % kStep, padded = (dim + kStep - 1) / kStep * kStep;
  for (int64_t i = 0; i < n; i += kRows) {
    Lanes lanes[kRows * kLanes];
    const auto add = [&](int r, const int8_t* row, int64_t j) {
#pragma GCC unroll 8
      for (int l = 0; l < kLanes; ++l)
        lanes[r * kLanes + l].multiply_add(queries + l * padded + j, row);
    };
    const int8_t* row[kRows];
    for (int r = 0; r < kRows; ++r)
      row[r] = static_cast<const int8_t*>(rows) + (i + r < n ? i + r : n - 1) * stride;
    for (int64_t j = 0; j < whole; j += kStep)
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        // By numbers: no pointer may go beyond its array, as the last ones would.
        const uintptr_t ahead = reinterpret_cast<uintptr_t>(row[r] + j) + kStreamAhead;
        if (j % 64 == 0) __builtin_prefetch(reinterpret_cast<const void*>(ahead));
        add(r, row[r] + j, j);
      }
    for (int r = 0; r < kRows && whole < dim; ++r) {
      int8_t tail[kStep] = {};
      __builtin_memcpy(tail, row[r] + whole, dim - whole);
      add(r, tail, whole);
    }
    float totals[kRows * kLanes];
    for (int a = 0; a < kRows * kLanes; a += 4) store_totals(lanes + a, totals + a);
    const int64_t left = n - i < kRows ? n - i : kRows;
    __builtin_memcpy(out + i * kLanes, totals, left * kLanes * sizeof(float));
  }
}

}  // namespace

void set_int8_kernels(Level&);
void set_int8_kernels(Level& level) {
  level.dot_int8_rows = dot_int8_rows;
  level.score_few_int8[0] = score_few_int8<1>;
  level.score_few_int8[1] = score_few_int8<2>;
  level.score_few_int8[2] = score_few_int8<4>;
  level.score_few_int8[3] = score_few_int8<8>;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
