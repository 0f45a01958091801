// Scores of all queries and items, tile by tile, on Hopper's tensor cores.
//
// A block takes 128 queries, which stay in shared memory if they have at most 384 dimensions of 16
// bits, and a range of items. One warpgroup brings slices of 256 items and 128 bytes by bulk
// copies, four of them in flight. Two others multiply, 64 queries each, and hand the scores of each
// tile to an epilogue while they are in registers. Each slice is used by both, but at its own time:
// one compares scores while the other multiplies. Blocks that run at the same time share a range of
// items, so that these are read from memory once.
//
// Two blocks next to each other may be a cluster. They then have the same range of items at the
// same time: each copies half of a slice to both, so that it is read from L2 once, and a slice is
// replaced when both have multiplied it. If the number of blocks of queries is odd, the last one
// has a partner without queries, whose scores are left out.
//
// float32 is multiplied as bfloat16 parts, see operands.cuh: a slice of items is then a stage for
// each part, and is multiplied with several parts of the queries.
//
// An epilogue is a struct with
//   kScales               whether it takes quantized tables
//   State                 what a thread keeps
//   begin(state, row)     a block of queries; the thread has rows `row` and `row + 8`
//   tile(state, d, row, first, odd)   scores of a tile, which it may change; the first column of
//                         the thread is `first`, and `odd` what is not an ordinary score
//   end(state, row, range)
#pragma once

#include "cuda/sm90/operands.cuh"

namespace rl4rec {

constexpr int kBlockQueries = 2 * kProductRows;
constexpr int kResidentSlices = 6;  // of queries, of one part, that fit beside the stages
constexpr int kQueryBytes = kBlockQueries * kSliceRow, kItemBytes = kTileItems * kSliceRow;
constexpr int kTileThreads = 3 * kWarpgroup;
constexpr int kConsumerWarps = 2 * kWarpgroup / kLanes;
constexpr int kMaskWords = kTileItems / kLanes;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// The score of what is not an item. It is NaN, with which all comparisons are false; a score that
// is NaN has other bits.
__device__ __forceinline__ float masked() { return __int_as_float(0x7fffffff); }
__device__ __forceinline__ bool is_masked(float score) {
  return __float_as_int(score) == 0x7fffffff;
}

// Whether some scores of a warp in a tile are masked, or not finite.
struct Odd {
  bool masked, open;
};

// What a kernel reads, and how the work is shared.
template <typename Types>
struct Work {
  Rows<typename Types::Query> query;
  Rows<typename Types::Item> table;
  Scales scales;                 // of the items of all tiles, 0 after the last one
  const int* needed;             // nothing is done where this is 0; or null
  int query_width, table_width;  // columns from part to part, in what is copied by boxes
  const uint32_t* valid;         // a bit for each item of all tiles, 0 after the last one; or null
  int slices;
  int query_blocks, tiles, tiles_a_range, ranges;
  int first_tile, first_range;  // others were before, in other launches
  int together;                 // blocks of a cluster, which share items: 1 or 2
  bool resident;                // whether queries stay in shared memory
  bool by_boxes;  // whether items can be copied by boxes: rows are aligned to 16 bytes

  // Of a unit of work the blocks of a cluster have a range of items, and a block of queries each.
  __host__ __device__ int groups() const { return (query_blocks + together - 1) / together; }
  __device__ __forceinline__ int block_of(int unit) const {
    return unit % groups() * together + static_cast<int>(rank_in_cluster());
  }
  __device__ __forceinline__ int range_of(int unit) const { return unit / groups(); }

  __host__ __device__ int query_bytes() const {
    return (resident ? slices : Types::kQuerySlices) * Types::kQueryParts * kQueryBytes;
  }
  __host__ __device__ int64_t shared_bytes() const {  // a multiple of 1,024 is not given
    constexpr int kBarriers = 2 * Types::kStages + 2;
    return 1024 + query_bytes() + Types::kStages * kItemBytes + 8 * kBarriers;
  }
};

// A score that is not finite, added up in float64; see rl4rec_kernels/ops/reference.py. The whole
// warp must call this.
template <typename Q, typename I>
__device__ __forceinline__ float score_in_float64(const Rows<Q>& queries, const Rows<I>& items,
                                                  const Scales& scales, int64_t row, int64_t item) {
  double sum = 0.0;
#pragma unroll 1
  for (int64_t j = lane_of_thread(); j < items.dim; j += kLanes)
    sum += static_cast<double>(value_at(queries, row, j)) * value_at(items, item, j);
  return static_cast<float>(sum_over_lanes(sum) * scale_at(scales.query, row) *
                            scale_at(scales.item, item));
}

__device__ __forceinline__ bool is_open(float score) { return !(fabsf(score) <= kMaxFloat); }

// Replaces each score by fn(i, score). Each step takes the first value and puts it behind the last,
// so that registers are not indexed: this is slow, and short.
template <typename Fn>
__device__ __forceinline__ void replace_scores(float (&d)[kScores], const Fn& fn) {
#pragma unroll 1
  for (int i = 0; i < kScores; ++i) {
    const float score = fn(i, d[0]);
#pragma unroll
    for (int k = 0; k + 1 < kScores; ++k) d[k] = d[k + 1];
    d[kScores - 1] = score;
  }
}

// Scores again what is not finite.
template <typename Types>
__device__ __forceinline__ void settle(float (&d)[kScores], const Work<Types>& w, int row,
                                       int first) {
  replace_scores(d, [&](int i, float score) {
    const int own_row = row + i / 2 % 2 * 8, own_item = first + i / 4 * 8 + i % 2;
    const bool exists = own_row < w.query.count && own_item < w.table.count;
    unsigned open = __ballot_sync(kAllLanes, exists && is_open(score));
#pragma unroll 1
    for (; open != 0; open &= open - 1) {
      const int lane = __popc((open - 1) & ~open);
      const float found =
          score_in_float64(w.query, w.table, w.scales, __shfl_sync(kAllLanes, own_row, lane),
                           __shfl_sync(kAllLanes, own_item, lane));
      if (lane_of_thread() == lane) score = found;
    }
    return is_masked(score) ? kNan : score;
  });
}

// Which columns of a tile are items, 32 in a word.
template <typename Types>
__device__ __forceinline__ bool items_of_tile(const Work<Types>& w, int tile,
                                              uint32_t (&words)[kMaskWords]) {
  if (!w.valid) {
    const int64_t left = w.table.count - static_cast<int64_t>(tile) * kTileItems;
    if (left >= kTileItems) return true;
#pragma unroll
    for (int i = 0; i < kMaskWords; ++i) {
      const int64_t bits = left - i * kLanes;
      words[i] = bits >= kLanes ? ~0u : bits <= 0 ? 0u : (1u << bits) - 1;
    }
    return false;
  }
  const uint4* found = reinterpret_cast<const uint4*>(w.valid) + tile * (kMaskWords / 4);
  const uint4 a = __ldg(found), b = __ldg(found + 1);
  words[0] = a.x, words[1] = a.y, words[2] = a.z, words[3] = a.w;
  words[4] = b.x, words[5] = b.y, words[6] = b.z, words[7] = b.w;
  return (a.x & a.y & a.z & a.w & b.x & b.y & b.z & b.w) == ~0u;
}

// Makes the scores of a tile final, and hands them on.
template <typename Types, typename Epilogue>
__device__ __forceinline__ void finish_tile(float (&d)[kScores], const Work<Types>& w,
                                            const Epilogue& epilogue,
                                            typename Epilogue::State& state, int row, int tile) {
  const int column = lane_of_thread() % 4 * 2, first = tile * kTileItems + column;
  float check[4] = {};  // 0 · x is 0, or NaN where x is not finite
#pragma unroll
  for (int i = 0; i < kScores; ++i) check[i % 4] = fmaf(d[i], 0.0f, check[i % 4]);
  const float all = (check[0] + check[1]) + (check[2] + check[3]);
  Odd odd;
  odd.open = __any_sync(kAllLanes, all != all);
  if (odd.open) settle(d, w, row, first);
  uint32_t words[kMaskWords];
  odd.masked = !items_of_tile(w, tile, words);
  if (odd.masked) {
#pragma unroll
    for (int j = 0; j < kScores / 4; ++j) {
      const uint32_t bits = words[j / 4] >> (j % 4 * 8) >> column;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!(bits >> i % 2 & 1)) d[4 * j + i] = masked();
    }
  }
  epilogue.tile(state, d, row, first, odd);
}

// The same for sums of products of values that have scales.
template <typename Types, typename Epilogue>
__device__ __forceinline__ void scale_tile(const typename Types::Sum (&sums)[kScores],
                                           const Work<Types>& w, const Epilogue& epilogue,
                                           typename Epilogue::State& state, int row, int tile) {
  const int first = tile * kTileItems + lane_of_thread() % 4 * 2;
  const auto of_items = reinterpret_cast<const float2*>(w.scales.item + first);
  float of_rows[2], d[kScores];
#pragma unroll
  for (int h = 0; h < 2; ++h)
    of_rows[h] = row + 8 * h < w.query.count ? scale_at(w.scales.query, row + 8 * h) : 1.0f;
#pragma unroll
  for (int j = 0; j < kScores / 4; ++j) {
    const float2 own = __ldg(of_items + 4 * j);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      d[4 * j + i] =
          scaled(static_cast<float>(sums[4 * j + i]), of_rows[i / 2], i % 2 ? own.y : own.x);
  }
  finish_tile(d, w, epilogue, state, row, tile);
}

// The warpgroup that brings queries and items.
template <typename Types>
__device__ __forceinline__ void produce(const Work<Types>& w, const CUtensorMap& query,
                                        const CUtensorMap& table, uint32_t queries, uint32_t stages,
                                        Barrier full, Barrier empty) {
  constexpr int kParts = Types::kQueryParts, kSlice = kSliceDim<typename Types::Product>;
  const bool leads = threadIdx.x == 0;
  if (w.by_boxes && !leads) return;
  const int units = w.groups() * w.ranges;
  int stage = 0, phase = 0, unit_phase = 0, place = 0;
  // A slice of all parts of a block of queries.
  const auto copy_queries = [&](int place, int k, int block, Barrier arrived) {
    for (int p = 0; p < kParts; ++p)
      copy_box(queries + (place * kParts + p) * kQueryBytes, query, p * w.query_width + k * kSlice,
               block * kBlockQueries, arrived);
  };
  for (int unit = blockIdx.x / w.together; unit < units; unit += gridDim.x / w.together) {
    const int block = w.block_of(unit), range = w.range_of(unit);
    const int end = min((range + 1) * w.tiles_a_range, w.tiles);
    if (w.resident && leads) {
      const Barrier arrived{full.address + 8 * Types::kStages};
      const Barrier left{empty.address + 8 * Types::kStages};
      left.wait(unit_phase ^ 1);
      arrived.arrive_and_expect(w.slices * kParts * kQueryBytes);
      for (int k = 0; k < w.slices; ++k) copy_queries(k, k, block, arrived);
      unit_phase ^= 1;
    }
#pragma unroll 1
    for (int tile = range * w.tiles_a_range; tile < end; ++tile) {
#pragma unroll 1
      for (int k = 0; k < w.slices; ++k) {
#pragma unroll 1
        for (int part = Types::kItemParts - 1; part >= 0; --part) {
          const Barrier arrived{full.address + 8 * stage}, left{empty.address + 8 * stage};
          const uint32_t items = stages + stage * kItemBytes;
          left.wait(phase ^ 1);
          // When this stage is free, so is the place of its slice of queries, see operands.cuh.
          const bool brings_queries = !w.resident && part == Types::kItemParts - 1;
          if (leads) {
            arrived.arrive_and_expect((brings_queries ? kParts * kQueryBytes : 0) +
                                      (w.by_boxes ? kItemBytes : 0));
            if (brings_queries) copy_queries(place, k, block, arrived);
            if (w.by_boxes) {
              const int x = part * w.table_width + k * kSlice, y = tile * kTileItems;
              const int rank = rank_in_cluster();
              if (w.together == 1)
                copy_box(items, table, x, y, arrived);
              else  // one half of the items; the other block copies the other one
                copy_box_to_both(items + rank * (kItemBytes / 2), table, x,
                                 y + rank * (kTileItems / 2), arrived);
            }
          }
          if constexpr (Types::kByValue) {
            if (!w.by_boxes) {  // value by value, by all threads
#pragma unroll 1
              for (int i = threadIdx.x; i < kTileItems * 8; i += kWarpgroup) {
                const int64_t item = static_cast<int64_t>(tile) * kTileItems + i / 8;
                Pack<typename Types::Item> pack;
                const int at = k * kSlice + i % 8 * pack.kSize;
                if (item < w.table.count)
                  pack = load_pack<typename Types::Item, false>(w.table.row(item), at, w.table.dim);
                store_chunk(items + swizzled(i / 8, i % 8), pack.words);
              }
              fence_shared();
              arrived.arrive();
            }
          }
          if (++stage == Types::kStages) stage = 0, phase ^= 1;
        }
        if (++place == Types::kQuerySlices) place = 0;
      }
    }
  }
}

// A warpgroup that multiplies.
template <typename Types, typename Epilogue>
__device__ __forceinline__ void consume(const Work<Types>& w, const Epilogue& epilogue,
                                        uint32_t queries, uint32_t stages, Barrier full,
                                        Barrier empty) {
  const int consumer = threadIdx.x / kWarpgroup - 1, lane = lane_of_thread();
  const int own_row = consumer * kProductRows + warp_of_thread() % 4 * 16 + lane / 4;
  const auto release = [&](const Barrier& barrier) {
    __syncwarp();
    if (lane == 0) barrier.arrive();
  };
  const auto release_items = [&](int stage) {
    const Barrier left{empty.address + 8 * stage};
    release(left);
    if (w.together == 2 && lane == 1) left.arrive_in(rank_in_cluster() ^ 1);
  };
  queries += consumer * kProductRows * kSliceRow;
  const int units = w.groups() * w.ranges;
  int stage = 0, phase = 0, unit_phase = 0, place = 0;
  for (int unit = blockIdx.x / w.together; unit < units; unit += gridDim.x / w.together) {
    const int block = w.block_of(unit), range = w.range_of(unit);
    const int end = min((range + 1) * w.tiles_a_range, w.tiles);
    const int row = block * kBlockQueries + own_row;
    typename Epilogue::State state;
    epilogue.begin(state, row);
    if (w.resident) Barrier{full.address + 8 * Types::kStages}.wait(unit_phase);
    unit_phase ^= 1;
#pragma unroll 1
    for (int tile = range * w.tiles_a_range; tile < end; ++tile) {
      typename Types::Sum d[kScores];
      if constexpr (Types::kScales) {  // the registers are not kept for the sums of the tile before
#pragma unroll
        for (int i = 0; i < kScores; ++i) d[i] = 0;
      }
      int before = -1;
#pragma unroll 1
      for (int k = 0; k < w.slices; ++k) {
        const uint32_t own = queries + (w.resident ? k : place) * Types::kQueryParts * kQueryBytes;
#pragma unroll
        for (int part = Types::kItemParts - 1; part >= 0; --part) {
          Barrier{full.address + 8 * stage}.wait(phase);
          multiply_parts<Types>(d, own, kQueryBytes, stages + stage * kItemBytes, part, k == 0);
          if (before >= 0) {  // the stage before has been multiplied: its place is free
            wait_for_products<1>();
            release_items(before);
          }
          before = stage;
          if (++stage == Types::kStages) stage = 0, phase ^= 1;
        }
        if (++place == Types::kQuerySlices) place = 0;
      }
      wait_for_products<0>();
      release_items(before);
      if (block >= w.query_blocks) continue;
      if constexpr (Types::kScales) {
        scale_tile(d, w, epilogue, state, row, w.first_tile + tile);
      } else {
        finish_tile(d, w, epilogue, state, row, w.first_tile + tile);
      }
    }
    epilogue.end(state, row, w.first_range + range);
    if (w.resident) release(Barrier{empty.address + 8 * Types::kStages});
  }
}

template <typename Types, typename Epilogue>
__global__ void __launch_bounds__(kTileThreads, 1)
    tile_kernel(const __grid_constant__ CUtensorMap query,
                const __grid_constant__ CUtensorMap table, const Work<Types> w,
                const Epilogue epilogue) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  if (w.needed && __ldg(w.needed) == 0) return;
  constexpr int kStages = Types::kStages;
  const uint32_t queries = aligned_shared();
  const uint32_t stages = queries + w.query_bytes();
  // Barriers of the stages, and one of the queries that stay.
  const Barrier full{stages + kStages * kItemBytes}, empty{full.address + 8 * (kStages + 1)};
  if (threadIdx.x == 0) {
    for (int i = 0; i <= kStages; ++i) {
      Barrier{full.address + 8 * i}.init(w.by_boxes || i == kStages ? 1 : 1 + kWarpgroup);
      Barrier{empty.address + 8 * i}.init(i == kStages ? kConsumerWarps
                                                       : kConsumerWarps * w.together);
    }
    fence_barriers();
  }
  sync_cluster();
  // The producer needs few registers, the others many: a multiprocessor has 65,536.
  if (threadIdx.x < kWarpgroup) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    produce(w, query, table, queries, stages, full, empty);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    consume(w, epilogue, queries, stages, full, empty);
  }
  sync_cluster();  // until then the other block arrives at barriers of this one
#endif
}

}  // namespace rl4rec
