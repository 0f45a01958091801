// The kernels of product_kernels.h by the matrix instructions of Intel AMX, or by their emulation,
// see amx.h. As in row_kernels.cpp, no header with inline functions may be included.
#include "cpu/amx.h"
#include "cpu/levels.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

#define RL4REC_FOUR_DOTS()      \
  {                             \
    TILE_DOT_BFLOAT16(0, 4, 6); \
    TILE_DOT_BFLOAT16(1, 4, 7); \
    TILE_DOT_BFLOAT16(2, 5, 6); \
    TILE_DOT_BFLOAT16(3, 5, 7); \
  }
#define RL4REC_LOAD_ROWS(part)                                      \
  {                                                                 \
    TILE_LOAD(4, rows[part] + k, 2 * row_stride);                   \
    TILE_LOAD(5, rows[part] + 16 * row_stride + k, 2 * row_stride); \
  }
#define RL4REC_LOAD_PANEL(part)                            \
  {                                                        \
    TILE_LOAD(6, panel[part] + 8 * k, 64);                 \
    TILE_LOAD(7, panel[part] + vector_stride + 8 * k, 64); \
  }

void add_products(const uint16_t* const rows[2], int64_t row_stride, const uint32_t* const panel[2],
                  int64_t vector_stride, int64_t length, bool begins, float* sums,
                  int64_t sums_stride) {
  const int64_t stride = 4 * sums_stride;
  if (begins) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  } else {
    TILE_LOAD(0, sums, stride);
    TILE_LOAD(1, sums + 16, stride);
    TILE_LOAD(2, sums + 16 * sums_stride, stride);
    TILE_LOAD(3, sums + 16 * sums_stride + 16, stride);
  }
  for (int64_t k = 0; k < length; k += kProductStep) {
    RL4REC_LOAD_ROWS(0);
    if (panel[1]) {
      RL4REC_LOAD_PANEL(1);
      RL4REC_FOUR_DOTS();
    }
    RL4REC_LOAD_PANEL(0);
    RL4REC_FOUR_DOTS();
    if (rows[1]) {
      RL4REC_LOAD_ROWS(1);
      RL4REC_FOUR_DOTS();
    }
  }
  TILE_STORE(0, sums, stride);
  TILE_STORE(1, sums + 16, stride);
  TILE_STORE(2, sums + 16 * sums_stride, stride);
  TILE_STORE(3, sums + 16 * sums_stride + 16, stride);
}

// Of a vector's panel and its third part: the words of all three parts.
struct QueryParts {
  const uint32_t* words[3];
};
inline QueryParts parts_of(const uint32_t* panel, const uint32_t* third, int64_t words,
                           int vector) {
  const uint32_t* first = panel + vector * 16 * words;
  return {{first, first + 8 * words, third + vector * 8 * words}};
}

#define RL4REC_LOAD_QUERIES(part)                      \
  {                                                    \
    TILE_LOAD(6, queries[0].words[part] + 16 * w, 64); \
    TILE_LOAD(7, queries[1].words[part] + 16 * w, 64); \
  }
void score_wide(const uint32_t* panel, const uint32_t* third, const void* items, int64_t stride,
                int64_t words, int64_t begin, int64_t end, float* scores) {
  const QueryParts queries[2] = {parts_of(panel, third, words, 0),
                                 parts_of(panel, third, words, 1)};
  const char* item = static_cast<const char*>(items);
  if (begin == 0) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  } else {
    TILE_LOAD(0, scores, 128);
    TILE_LOAD(1, scores + 16, 128);
    TILE_LOAD(2, scores + 512, 128);
    TILE_LOAD(3, scores + 528, 128);
  }
  for (int64_t w = begin; w < end; w += 16) {
    TILE_LOAD(4, item + 4 * w, stride);
    TILE_LOAD(5, item + 16 * stride + 4 * w, stride);
    RL4REC_LOAD_QUERIES(2);
    RL4REC_FOUR_DOTS();
    RL4REC_LOAD_QUERIES(1);
    RL4REC_FOUR_DOTS();
    RL4REC_LOAD_QUERIES(0);
    RL4REC_FOUR_DOTS();
    TILE_LOAD(4, item + 2 * words + 4 * w, stride);
    TILE_LOAD(5, item + 16 * stride + 2 * words + 4 * w, stride);
    RL4REC_FOUR_DOTS();
  }
  TILE_STORE(0, scores, 128);
  TILE_STORE(1, scores + 16, 128);
  TILE_STORE(2, scores + 512, 128);
  TILE_STORE(3, scores + 528, 128);
}

// The same sums in the same order.
#define RL4REC_DOT_ITEMS(sums)                                             \
  {                                                                        \
    TILE_LOAD(4, item + 16 * (sums) * stride + 4 * w, stride);             \
    TILE_DOT_BFLOAT16(sums, 4, 7);                                         \
    TILE_DOT_BFLOAT16(sums, 4, 6);                                         \
    TILE_DOT_BFLOAT16(sums, 4, 5);                                         \
    TILE_LOAD(4, item + 16 * (sums) * stride + 2 * words + 4 * w, stride); \
    TILE_DOT_BFLOAT16(sums, 4, 5);                                         \
  }
void score_narrow(const uint32_t* panel, const uint32_t* third, const void* items, int64_t stride,
                  int64_t words, int64_t begin, int64_t end, float* scores) {
  const QueryParts queries = parts_of(panel, third, words, 0);
  const char* item = static_cast<const char*>(items);
  if (begin == 0) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  } else {
    TILE_LOAD(0, scores, 64);
    TILE_LOAD(1, scores + 256, 64);
    TILE_LOAD(2, scores + 512, 64);
    TILE_LOAD(3, scores + 768, 64);
  }
  for (int64_t w = begin; w < end; w += 16) {
    TILE_LOAD(5, queries.words[0] + 16 * w, 64);
    TILE_LOAD(6, queries.words[1] + 16 * w, 64);
    TILE_LOAD(7, queries.words[2] + 16 * w, 64);
    RL4REC_DOT_ITEMS(0);
    RL4REC_DOT_ITEMS(1);
    RL4REC_DOT_ITEMS(2);
    RL4REC_DOT_ITEMS(3);
  }
  TILE_STORE(0, scores, 64);
  TILE_STORE(1, scores + 256, 64);
  TILE_STORE(2, scores + 512, 64);
  TILE_STORE(3, scores + 768, 64);
}

}  // namespace

void set_product_kernels(Level&);
void set_product_kernels(Level& level) {
  level.products = {add_products, score_wide, score_narrow};
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
