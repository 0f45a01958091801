// The kernels of tile_kernels.h, for one level of CPU features. As in row_kernels.cpp, no header
// with inline functions may be included.
#include "cpu/tile_counters.h"
#include "cpu/tile_loop.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

struct FloatStep {
  using Word = float;
  using Sum = Floats;
  static Sum add(Sum sum, Floats panel, float item) { return sum + panel * item; }
};

template <int kLanes>
bool count(const float* scores, int64_t num_rows, const float* target, bool only_finite,
           int32_t* above, int32_t* tied) {
  Counter<kLanes> counter(target);
  int64_t r = 0;
  for (; r + 2 <= num_rows; r += 2) counter.add_two(scores + r * kLanes);
  if (r < num_rows) counter.add_one(scores + r * kLanes);
  return counter.store(only_finite, above, tied);
}

bool all_finite(const float* scores, int64_t n) {
  Floats sums[2] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
      Floats pair[2];
      __builtin_memcpy(pair, scores + i + 2 * s * kWidth, sizeof(pair));
      sums[s] += pair[0] * pair[1];
    }
#if defined(__AVX512F__)
  for (; i < n; i += kWidth) {
    const __mmask16 exists = static_cast<__mmask16>(n - i < kWidth ? (1 << (n - i)) - 1 : -1);
    sums[0] += 0.0f * (Floats)_mm512_maskz_loadu_ps(exists, scores + i);
  }
  return are_finite<2>({(__m512)sums[0], (__m512)sums[1]});
#else
  float rest[1] = {}, lanes[2 * kWidth];
  for (; i < n; ++i) rest[0] += 0.0f * scores[i];
  __builtin_memcpy(lanes, sums, sizeof(lanes));
  return are_finite(lanes) && are_finite(rest);
#endif
}

template <int kLanes>
int64_t count_and_collect(const float* scores, int64_t num_rows, const float* low,
                          const float* high, bool only_finite, int32_t* above,
                          uint32_t* positions) {
  if (only_finite && !all_finite(scores, num_rows * kLanes)) return -1;
#if defined(__AVX512F__)
  if constexpr (kLanes < kWidth)
    return collect_few<kLanes>(scores, num_rows * kLanes, low, high, above, positions);
#endif
  Collector<kLanes> collector(low, high, above, positions);
  for (int64_t r = 0; r < num_rows; ++r) collector.add(r, scores + r * kLanes);
  return collector.store(above);
}

// As the compiler does it for vectors. In a loop of scalars it might vectorize the multiplications
// alone, so it is spelled out.
[[gnu::always_inline]] inline float multiply_add(float sum, float a, float b) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, sum);
#else
  return sum + a * b;
#endif
}

#if defined(__AVX512F__)
// Four dimensions of 16 rows: four[j] holds those of the rows j, 4 + j, 8 + j and 12 + j.
[[gnu::always_inline]] inline void load_four(const float* const* rows, int64_t d, __m512* four) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(rows[j] + d));
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[4 + j] + d), 1);
    v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[8 + j] + d), 2);
    four[j] = _mm512_insertf32x4(v, _mm_loadu_ps(rows[12 + j] + d), 3);
  }
}

// Turns them so that a vector holds one dimension of all rows.
[[gnu::always_inline]] inline void transpose(const __m512* four, __m512* dimension) {
  const __m512 a = _mm512_unpacklo_ps(four[0], four[1]), b = _mm512_unpackhi_ps(four[0], four[1]);
  const __m512 c = _mm512_unpacklo_ps(four[2], four[3]), e = _mm512_unpackhi_ps(four[2], four[3]);
  dimension[0] = _mm512_shuffle_ps(a, c, 0x44);
  dimension[1] = _mm512_shuffle_ps(a, c, 0xee);
  dimension[2] = _mm512_shuffle_ps(b, e, 0x44);
  dimension[3] = _mm512_shuffle_ps(b, e, 0xee);
}
#endif

// kPairs: the query of item i is queries[i]. Otherwise queries[0] is that of all items.
template <bool kPairs>
void sequential_dots(const float* const* queries, const float* const* items, int64_t n, int64_t dim,
                     float* scores) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i < n; i += 16) {
    const float *item[16], *query[16], *ahead[16];  // the next 16: prefetched
    for (int64_t j = 0; j < 16; ++j) {
      item[j] = items[i + j < n ? i + j : i];
      query[j] = queries[kPairs ? (i + j < n ? i + j : i) : 0];
      ahead[j] = items[i + 16 + j < n ? i + 16 + j : i];
    }
    __m512 sum = _mm512_setzero_ps();
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        __m512 four[4], values[4];
        load_four(item, d + 4 * k, four);
        transpose(four, values);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) __builtin_prefetch(ahead[4 * k + j] + d);
        if constexpr (kPairs) {
          __m512 others[4];
          load_four(query, d + 4 * k, four);
          transpose(four, others);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) sum += others[j] * values[j];
        } else {
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) sum += query[0][d + 4 * k + j] * values[j];
        }
      }
    }
    float lanes[16];
    __builtin_memcpy(lanes, &sum, sizeof(lanes));
    for (int64_t j = 0; j < 16 && i + j < n; ++j) {
      float rest = lanes[j];
      for (int64_t k = d; k < dim; ++k) rest = multiply_add(rest, query[j][k], item[j][k]);
      scores[i + j] = rest;
    }
  }
#else
  for (; i < n; ++i) {
    const float* query = queries[kPairs ? i : 0];
    float sum = 0.0f;
    for (int64_t d = 0; d < dim; ++d) sum = multiply_add(sum, query[d], items[i][d]);
    scores[i] = sum;
  }
#endif
}

void sequential_dot(const float* query, const float* const* items, int64_t n, int64_t dim,
                    float* scores) {
  sequential_dots<false>(&query, items, n, dim, scores);
}

#define RL4REC_FOR_LANES(kernel) \
  {kernel<1>, kernel<2>, kernel<4>, kernel<8>, kernel<16>, kernel<32>}

}  // namespace

void set_tile_kernels(Level&);
void set_tile_kernels(Level& level) {
  level.lanes = {RL4REC_FOR_LANES(count), RL4REC_FOR_LANES(count_and_collect)};
  set_score<2>(level.wide[kFloat], 0.25f, score<FloatStep, 2>);
  set_score<1>(level.narrow[kFloat], 0.25f, score<FloatStep, 1>);
  level.all_finite = all_finite;
  level.sequential_dot = sequential_dot;
  level.sequential_dots = sequential_dots<true>;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
