// What the candidate kernels share: their arguments on the device, and how the work is divided.
//
// A block takes one chunk: at most kThreads candidates of one row. For a matrix of ids a block's
// chunk follows from its index. Ragged rows are found without a prefix sum, and without reading
// their lengths on the host: row r owns the blocks from offsets[r] / kChunkSize + r on. These are
// at least as many as it has chunks, and at most count / kChunkSize + rows in all. Blocks without a
// chunk return at once.
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
    const int64_t at = i * stride + j;
    if (bytes == 4) return static_cast<const float*>(data)[at];
    const uint16_t bits = static_cast<const uint16_t*>(data)[at];
    return bfloat16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                    : static_cast<float>(Half(bits, Half::from_bits()));
  }

  const void* data;
  int64_t dim, stride;
  int bytes;  // per value
  bool bfloat16;
  const float* padded;  // all rows as float32 [rows, padded_dim], if shared memory is too small
};

// Values per row that kernels read of the query, with zeros up to what a warp reads at once.
__host__ __device__ constexpr int64_t padded_dim(int64_t dim) { return (dim + 255) / 256 * 256; }

// The shared memory whose size the launch gives.
__device__ __forceinline__ float* dynamic_shared() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
}

// A query in shared memory. Of each 32 * kPack columns, a pack for each lane, the first four of all
// packs are stored, then the next four: 8 lanes read 128 bytes in a row, from all banks.
template <int kPack>
struct StagedQuery {
  static constexpr unsigned kWidth = kLanes * kPack;

  static __device__ __forceinline__ unsigned place(unsigned column) {
    const unsigned lane = column % kWidth / kPack, four = column % kPack / 4;
    return column / kWidth * kWidth + (four * kLanes + lane) * 4 + column % 4;
  }
  // Four columns from `at + i` on; the lane's pack begins at `at`.
  __device__ __forceinline__ float4 four(int at, int i) const {
    const unsigned first = static_cast<unsigned>(at) / kWidth * kWidth + lane_of_thread() * 4;
    return *reinterpret_cast<const float4*>(dynamic_shared() + first + i * kLanes);
  }
  __device__ __forceinline__ float one(int64_t column) const {
    return dynamic_shared()[place(static_cast<unsigned>(column))];
  }
};

// A query that is too long for shared memory.
struct PaddedQuery {
  __device__ __forceinline__ float4 four(int at, int i) const {
    return __ldg(reinterpret_cast<const float4*>(data + at + i));
  }
  __device__ __forceinline__ float one(int64_t column) const { return __ldg(data + column); }

  const float* data;
};

// Puts row i of the queries into shared memory, for use after a barrier, if it fits there.
template <int kPack>
__device__ __forceinline__ void stage_query(const Queries& queries, int64_t i) {
  if (queries.padded) return;
  const unsigned padded = static_cast<unsigned>(padded_dim(queries.dim));
  for (unsigned j = threadIdx.x; j < padded; j += kThreads)
    dynamic_shared()[StagedQuery<kPack>::place(j)] = j < queries.dim ? queries.at(i, j) : 0.0f;
}

// The score of the lane's own item, or 0 where its id is -1, with row i of the queries, which has
// been staged. The whole warp must call this. No other code computes scores.
template <typename T>
__device__ __forceinline__ float score_items(const Rows<T>& table, const Queries& queries,
                                             int64_t i, int64_t id) {
  if (queries.padded)
    return score_with(table, PaddedQuery{queries.padded + i * padded_dim(queries.dim)}, id);
  return score_with(table, StagedQuery<Rows<T>::kPack>(), id);
}

// Candidates per chunk. If rows have targets, each chunk scores its row's target as well, in slot
// 0, so that all of them compare with the same bits.
template <bool kTargets>
constexpr int kChunkSize = kThreads - kTargets;

struct Candidates {
  __device__ __forceinline__ int64_t id(int64_t at) const {
    return is_int64 ? static_cast<const int64_t*>(ids)[at] : static_cast<const int32_t*>(ids)[at];
  }
  __device__ __forceinline__ bool in_table(int64_t id) const { return 0 <= id && id < num_items; }
  // If so, no id may be read, and all results are NaN or -1.
  __device__ __forceinline__ bool has_bad_offsets() const {
    return offsets && (*bad & kBadOffsets);
  }

  const void* ids;
  const int64_t* offsets;                    // null for a matrix
  int64_t rows, columns, row_stride, count;  // `columns` and `row_stride` are for a matrix
  int64_t num_items;
  int* bad;
  bool is_int64;
};

struct Chunk {
  int64_t row, index, count;  // the row, the index of the chunk in it, the number of its chunks
  int64_t length;             // candidates of the row
  int64_t ids, results;       // the index of the row's first one in the ids and in the results
};

template <bool kTargets>
__host__ __device__ constexpr int64_t count_chunks(int64_t length) {
  const int64_t n = (length - kTargets + kChunkSize<kTargets> - 1) / kChunkSize<kTargets>;
  return kTargets && n < 1 ? 1 : n;
}

// Blocks that cover all candidates, on the host.
template <bool kTargets>
int64_t count_blocks(const Candidates& candidates) {
  if (!candidates.offsets) return candidates.rows * count_chunks<kTargets>(candidates.columns);
  return candidates.count / kChunkSize<kTargets> + candidates.rows;
}

// The row that owns a block. The search looks at 32 rows at a time, so that few loads are in
// sequence.
template <bool kTargets>
__device__ __forceinline__ int64_t find_row(const Candidates& c, int64_t block) {
  int64_t low = 0, high = c.rows;  // low's first block is not after `block`, high's is
  while (high - low > 1) {
    const int64_t step = (high - low + kLanes - 1) / kLanes;
    const int64_t row = low + lane_of_thread() * step;
    const bool reached = row < high && c.offsets[row] / kChunkSize<kTargets> + row <= block;
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
    chunk.index = block - (chunk.ids / kChunkSize<kTargets> + chunk.row);
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

// The sums over the blocks of one row.
struct RowCounts {
  unsigned long long above, tied, total, bad, arrived;
};

}  // namespace rl4rec
