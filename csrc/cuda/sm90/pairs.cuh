// Scores of single pairs by the arithmetic of a tile: of targets and of excluded items.
//
// A block takes 64 pairs, multiplies all their queries with all their items, and keeps the
// diagonal. That is wasteful, but still little work compared with the catalog, and a pair's score
// is the one it has there, to the bit.
#pragma once

#include "cuda/sm90/tiles.cuh"

namespace rl4rec {

struct Pairs {
  const int64_t* rows;   // of the queries; null if pair i has query i
  const int64_t* items;  // those out of range score -inf
  int64_t count;
  float* scores;
  Scales scales;
};

constexpr int kPairQueryBytes = kProductRows * kSliceRow;
template <typename Types>
constexpr int kPairBytes = 1024 + Types::kQueryParts * kPairQueryBytes + kItemBytes;

// Puts a part of a slice of a row for each pair into shared memory.
template <typename T>
__device__ __forceinline__ void stage_rows(uint32_t to, const Rows<T>& rows, const int* ids, int at,
                                           int part) {
  using Bits = typename Multiplied<T>::Bits;
  constexpr int kChunk = 16 / sizeof(Bits), kPerWord = 4 / sizeof(Bits);
#pragma unroll 1
  for (int i = threadIdx.x; i < kProductRows * 8; i += kWarpgroup) {
    const int64_t id = ids[i / 8];
    const int first = at + i % 8 * kChunk;
    uint32_t words[4] = {};
    if (id >= 0 && first < rows.dim) {
      if (!kIsMade<T> && rows.aligned) {
        const uint4 bits = __ldg(reinterpret_cast<const uint4*>(rows.row(id) + first));
        words[0] = bits.x, words[1] = bits.y, words[2] = bits.z, words[3] = bits.w;
      } else {
#pragma unroll
        for (int j = 0; j < kChunk; ++j)
          if (first + j < rows.dim)
            words[j / kPerWord] |= static_cast<uint32_t>(part_at(rows, id, first + j, part))
                                   << 8 * sizeof(Bits) * (j % kPerWord);
      }
    }
    store_chunk(to + swizzled(i / 8, i % 8), words);
  }
}

template <typename Types>
__global__ void __launch_bounds__(kWarpgroup, 2)
    pair_kernel(const Rows<typename Types::Query> query, const Rows<typename Types::Item> table,
                const Pairs pairs) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ int rows[kProductRows], items[kProductRows];
  __shared__ float scores[kProductRows];
  const uint32_t queries = aligned_shared();
  const uint32_t others = queries + Types::kQueryParts * kPairQueryBytes;
  const int64_t slot = static_cast<int64_t>(blockIdx.x) * kProductRows + threadIdx.x;
  if (threadIdx.x < kProductRows) {
    const int64_t item = slot < pairs.count ? pairs.items[slot] : -1;
    const bool exists = item >= 0 && item < table.count;
    items[threadIdx.x] = exists ? static_cast<int>(item) : -1;
    rows[threadIdx.x] = !exists ? -1 : static_cast<int>(pairs.rows ? pairs.rows[slot] : slot);
  }
  // The instruction is the one of a tile, whose other items are zeros.
  for (int i = threadIdx.x; i < (kTileItems - kProductRows) * 8; i += kWarpgroup)
    store_chunk(others + kProductRows * kSliceRow + i * 16, {0, 0, 0, 0});
  __syncthreads();
  typename Types::Sum d[kScores];
#pragma unroll 1
  for (int at = 0; at == 0 || at < table.dim; at += kSliceDim<typename Types::Product>) {
#pragma unroll
    for (int part = Types::kItemParts - 1; part >= 0; --part) {
      for (int p = 0; p < Types::kQueryParts - part; ++p)
        stage_rows(queries + p * kPairQueryBytes, query, rows, at, p);
      stage_rows(others, table, items, at, part);
      fence_shared();
      __syncthreads();
      multiply_parts<Types>(d, queries, kPairQueryBytes, others, part, at == 0);
      wait_for_products<0>();
      __syncthreads();
    }
  }
  // Row and column r of the tile are in register 4 (r / 8) + 2 h + e of warp r / 16.
  const int lane = lane_of_thread(), warp = warp_of_thread();
  typename Types::Sum of_row[2] = {};  // and select them, because registers are not indexed
#pragma unroll
  for (int i = 0; i < kProductRows / 2; ++i) {
    const int w = i / 8, h = i / 2 % 2;
    if (i / 4 % 2 == h) of_row[h] = warp == w && lane / 4 % 2 == i % 2 ? d[i] : of_row[h];
  }
  if (lane % 4 == lane / 8) {
    scores[16 * warp + lane / 4] = static_cast<float>(of_row[0]);
    scores[16 * warp + lane / 4 + 8] = static_cast<float>(of_row[1]);
  }
  __syncwarp();
  const int own = 16 * warp + lane % 16, row = rows[own], item = items[own];
  float score = scores[own];
  if (Types::kScales && item >= 0)
    score = scaled(score, scale_at(pairs.scales.query, row), scale_at(pairs.scales.item, item));
  unsigned open = __ballot_sync(kAllLanes, lane < 16 && item >= 0 && is_open(score));
#pragma unroll 1
  for (; open != 0; open &= open - 1) {
    const int which = __popc((open - 1) & ~open);
    const float found =
        score_in_float64(query, table, pairs.scales, __shfl_sync(kAllLanes, row, which),
                         __shfl_sync(kAllLanes, item, which));
    if (lane == which) score = found;
  }
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kProductRows + own;
  if (lane < 16 && place < pairs.count) pairs.scores[place] = item < 0 ? kMinusInfinity : score;
#endif
}

}  // namespace rl4rec
