// Products of matrices of float32, each value of which is the sum of two bfloat16: the value
// rounded and the rest, rounded. What that leaves out of a value is at most 2^-18 of it.
#pragma once

#include <cstdint>

#include "cpu/rounding_kernels.h"

namespace rl4rec {

constexpr int64_t kProductRows = 32, kProductLanes = 32;  // of add_products
constexpr int64_t kProductVector = 16;                    // lanes of a vector
constexpr int64_t kProductStep = 32;  // values that are added up at once: others are 0

struct ProductKernels {
  // sums[r * sums_stride + l] += the sum over k of rows[r, k] * panel[k, l], for 32 rows and 32
  // lanes; `length` is how many k there are, a multiple of kProductStep.
  //
  // Both factors have two parts. Those of `rows` are bfloat16 [r, k], `row_stride` values apart.
  // Those of a panel are words of two bfloat16, for an even k and the next one: [2, length / 2,
  // 16], where the two vectors of lanes are `vector_stride` words apart. A second part may be null:
  // all 0. The product of both second parts is left out, at most 2^-18 of the product. Sums that
  // begin here need no values before.
  void (*add_products)(const uint16_t* const rows[2], int64_t row_stride,
                       const uint32_t* const panel[2], int64_t vector_stride, int64_t length,
                       bool begins, float* sums, int64_t sums_stride);

  // Scores as those of TileKernels for kSplit, but for queries of three parts, which are exact but
  // for 2^-26 of them: `third` has the words of the last one, [vector, words / 2, 16]. The products
  // of the words [begin, end) of every part are added to the scores, which begin as 0 if `begin` is
  // 0. For 32 and for 16 lanes.
  void (*score_wide)(const uint32_t* panel, const uint32_t* third, const void* items,
                     int64_t stride, int64_t words, int64_t begin, int64_t end, float* scores);
  void (*score_narrow)(const uint32_t* panel, const uint32_t* third, const void* items,
                       int64_t stride, int64_t words, int64_t begin, int64_t end, float* scores);
};

// Where the parts of a tile go. A null pointer is for what is not needed.
struct SplitTile {
  uint16_t* rows[2];   // bfloat16, a row of the tile every `row_stride` values
  uint32_t* panel[2];  // words of two rows, every vector of lanes `vector_stride` words apart
  int64_t row_stride, vector_stride;
};

struct Int8Parts {
  int8_t* part[3];
};

// What the factors are made by. Values that are not finite have no second part. Pointers to second
// parts may be null.
struct SplitKernels {
  // The two parts of n values, a multiple of 16.
  void (*split)(const float* values, int64_t n, uint16_t* first, uint16_t* second);
  // Words of the parts of even[i] and odd[i], for n values, a multiple of 16. Every 16 words are
  // `vector_stride` words apart.
  void (*split_pairs)(const float* even, const float* odd, int64_t n, uint32_t* first,
                      uint32_t* second, int64_t vector_stride);
  // The parts of values[r * lanes + l], for an even number of rows and 16 or 32 lanes.
  void (*split_tile)(const float* values, int64_t num_rows, int64_t lanes, const SplitTile& to);
  // The parts of 16 rows of values, those of each dimension side by side: dimension d of row i is
  // written to first[d * column_stride + i]. `dim` is even.
  void (*split_columns)(const float* rows, int64_t row_stride, int64_t dim, uint16_t* first,
                        uint16_t* second, int64_t column_stride);
  // See Embeddings::to_three_int8. `values` are padded to a multiple of 16.
  void (*split_three)(const float* values, int64_t dim, const Int8Parts& parts, float* scale,
                      RowNorms* norms);
};

}  // namespace rl4rec
