// Dot products and scaled sums of embedding rows, for one level of CPU features.
//
// The same source is compiled for several levels, with different compiler flags (see
// CMakeLists.txt). All of them keep kStep partial sums and add them in the same order, so that the
// levels with fused multiply-add give the same bits.
//
// No header with inline functions may be included: the linker keeps one copy of such a function,
// possibly one that is compiled for instructions which this machine does not have.

#include "cpu/row_loop.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

constexpr int kRowsAtOnce = kVectorBytes == 64 ? 4 : kVectorBytes == 32 ? 3 : 1;
constexpr int kSumRegisters = kVectorBytes == 64 ? 16 : 8;  // of sums, half of all

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
      {{score_few<float, 1>, score_few<Float16, 1>, score_few<BFloat16, 1>},
       {score_few<float, 2>, score_few<Float16, 2>, score_few<BFloat16, 2>},
       {score_few<float, 4>, score_few<Float16, 4>, score_few<BFloat16, 4>},
       {score_few<float, 8>, score_few<Float16, 8>, score_few<BFloat16, 8>}},
  };
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
