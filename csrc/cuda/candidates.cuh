// What the candidate kernels share: their arguments on the device, and how the work is cut.
//
// A block takes one chunk: at most kThreads candidates of one row. For a matrix of ids a block's
// chunk follows from its number. Ragged rows are found without a prefix sum and without asking the
// device how long they are: row r owns the blocks from offsets[r] / kLength + r on, which are at
// least as many as it has chunks, and at most count / kLength + rows altogether. Blocks that are
// too many end at once.
#pragma once

#include "cuda/rows.cuh"

namespace rl4rec {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Bits of `bad`.
constexpr int kBadId = 1, kBadOffsets = 2;

struct Queries {
  // Column j of row i as float32.
  __device__ __forceinline__ float at(int64_t i, int64_t j) const {
    using torch::headeronly::Half;
    const int64_t where = i * stride + j;
    if (bytes == 4) return static_cast<const float*>(data)[where];
    const uint16_t bits = static_cast<const uint16_t*>(data)[where];
    return bfloat16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                    : static_cast<float>(Half(bits, Half::from_bits()));
  }

  const void* data;
  int64_t dim, stride;
  int bytes;  // of a value
  bool bfloat16;
  const float* wide;  // all rows as the kernels want them, where one is too long for shared memory
};

// Values that kernels read for each row of the query, with zeros up to a whole pack.
__host__ __device__ constexpr int64_t padded_dim(int64_t dim) { return (dim + 7) / 8 * 8; }

// Row i of the queries as float32: in shared memory once the block has passed a barrier.
__device__ __forceinline__ const float* stage_query(const Queries& queries, int64_t i) {
  const int64_t padded = padded_dim(queries.dim);
  if (queries.wide) return queries.wide + i * padded;
  float* staged = dynamic_shared();
  for (int64_t j = threadIdx.x; j < padded; j += kThreads)
    staged[j] = j < queries.dim ? queries.at(i, j) : 0.0f;
  return staged;
}

// How many candidates a chunk takes from its row. Where rows have targets, each chunk scores its
// row's target too, in the first place, so that all of them compare with the same bits.
template <bool kTargets>
constexpr int kLength = kThreads - kTargets;

struct Candidates {
  __device__ __forceinline__ int64_t id(int64_t place) const {
    return wide ? static_cast<const int64_t*>(ids)[place] : static_cast<const int32_t*>(ids)[place];
  }
  __device__ __forceinline__ bool in_table(int64_t id) const { return 0 <= id && id < num_items; }
  // Offsets that cannot be trusted: no id may be looked up, every result is poisoned.
  __device__ __forceinline__ bool lost() const { return offsets && (*bad & kBadOffsets); }

  const void* ids;
  const int64_t* offsets;                    // null for a matrix
  int64_t rows, columns, row_stride, count;  // `columns` and `row_stride` are for a matrix
  int64_t num_items;
  int* bad;
  bool wide;
};

struct Chunk {
  int64_t row, index, count;  // the row, which of its chunks this is, how many it has
  int64_t length;             // candidates of the row
  int64_t ids, results;       // where the row's first one stands in the ids and in the results
};

template <bool kTargets>
__host__ __device__ constexpr int64_t count_chunks(int64_t length) {
  const int64_t n = (length - kTargets + kLength<kTargets> - 1) / kLength<kTargets>;
  return kTargets && n < 1 ? 1 : n;
}

// Blocks that cover all candidates, on the host.
template <bool kTargets>
int64_t count_blocks(const Candidates& candidates) {
  if (!candidates.offsets) return candidates.rows * count_chunks<kTargets>(candidates.columns);
  return candidates.count / kLength<kTargets> + candidates.rows;
}

// The row that owns a block, by a search of 32 places at a time: a chain of few loads.
template <bool kTargets>
__device__ __forceinline__ int64_t find_row(const Candidates& c, int64_t block) {
  int64_t low = 0, high = c.rows;  // low's first block is not behind `block`, high's is
  while (high - low > 1) {
    const int64_t step = (high - low + kLanes - 1) / kLanes;
    const int64_t row = low + lane_of_thread() * step;
    const bool reached = row < high && c.offsets[row] / kLength<kTargets> + row <= block;
    low += (__popc(__ballot_sync(kAllLanes, reached)) - 1) * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

template <bool kTargets>
__device__ __forceinline__ Chunk find_chunk(const Candidates& c, int64_t block) {
  Chunk chunk;
  if (c.offsets) {
    chunk.row = find_row<kTargets>(c, block);
    chunk.ids = chunk.results = c.offsets[chunk.row];
    chunk.length = c.offsets[chunk.row + 1] - chunk.ids;
    chunk.count = count_chunks<kTargets>(chunk.length);
    chunk.index = block - (chunk.ids / kLength<kTargets> + chunk.row);
  } else {
    chunk.length = c.columns;
    chunk.count = count_chunks<kTargets>(c.columns);
    chunk.row = block / chunk.count;
    chunk.index = block % chunk.count;
    chunk.ids = chunk.row * c.row_stride;
    chunk.results = chunk.row * c.columns;
  }
  return chunk;
}

// What the blocks of one row add up.
struct RowCounts {
  unsigned long long above, tied, total, bad, arrived;
};

}  // namespace rl4rec
