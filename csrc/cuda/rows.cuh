// Rows of embeddings on the device: loads of 128 bits, and the one definition of a score.
//
// Why these numbers. Scoring is bound by memory: each value of a row is read and used once. To
// saturate the 3.35 TB/s of an H100 at a latency of about 1 us under load, about 25 KB must be in
// flight to each of its 132 multiprocessors. A warp loads kRows rows at a time, 16 bytes per lane:
// 2 KB per warp. With at most 64 registers per thread, 32 warps fit (8 blocks of 128 threads), so
// up to 64 KB are in flight, and the bandwidth stays saturated while more than half of the warps
// compute, add up or wait for their ids. More rows per warp would take registers from other warps.
// A warp executes about 110 instructions per 2 KB, a fifth of what the multiprocessor can issue
// meanwhile. The query is in shared memory as float32, in an order in which its lanes read from all
// banks: kRows rows share each read of it. Of rows that are not aligned, a lane loads two words of
// 128 bits, of which the cache has the second one, and shifts them. That takes registers: two rows
// at a time, 32 KB in flight.
#pragma once

#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

#include "cuda/launch.cuh"

namespace rl4rec {

constexpr int kLanes = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kLanes * kWarps;
constexpr int kRows = 4;         // that a warp loads at a time
constexpr int kBlocksPerSm = 8;  // limits the registers
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kMaxFloat = std::numeric_limits<float>::max();

__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % kLanes; }
__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / kLanes; }

// How a table stores its values. `Bits` is the type that loads one.
struct Float32 {
  using Bits = uint32_t;
};
struct Float16 {
  using Bits = uint16_t;
};
struct BFloat16 {
  using Bits = uint16_t;
};
// Of quantized tables, which have a scale for each row.
struct Int8 {
  using Bits = uint8_t;
};
struct Float8 {  // e4m3; its NaN, which no table has, is another number
  using Bits = uint8_t;
};

template <typename T>
struct Rows {
  using Bits = typename T::Bits;
  static constexpr int kPack = 16 / sizeof(Bits);  // values in 128 bits

  __device__ __forceinline__ const Bits* row(int64_t i) const { return data + i * stride; }
  // Whether all aligned words of 128 bits in which a row has values are within the table. Of a
  // table that is not aligned, this is not so for some of the first and last rows.
  __device__ __forceinline__ bool has_words_of(const Bits* row) const {
    const auto begin = reinterpret_cast<uintptr_t>(row), all = reinterpret_cast<uintptr_t>(data);
    const auto end = reinterpret_cast<uintptr_t>(this->row(count - 1) + dim);
    return (begin & ~uintptr_t{15}) >= all &&
           (reinterpret_cast<uintptr_t>(row + dim) + 15 & ~uintptr_t{15}) <= end;
  }

  const Bits* data;
  int64_t count, dim, stride;
  bool aligned;  // every row is a whole number of aligned 128-bit words
};

// As many values as 128 bits hold.
template <typename T>
struct Pack {
  static constexpr int kSize = Rows<T>::kPack;

  __device__ __forceinline__ float operator[](int i) const {
    if constexpr (sizeof(typename T::Bits) == 4) {
      return __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<T, BFloat16>) {
      return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
    } else if constexpr (std::is_same_v<T, Int8>) {
      return static_cast<int8_t>(words[i / 4] >> 8 * (i % 4));
    } else if constexpr (std::is_same_v<T, Float8>) {  // as float32 but for the bias of exponents
      const uint32_t bits = words[i / 4] >> 8 * (i % 4);
      return __uint_as_float((bits & 0x80) << 24 | (bits & 0x7f) << 20) * 0x1p120f;
    } else {
      const uint16_t bits = static_cast<uint16_t>(words[i / 2] >> 16 * (i % 2));
      return torch::headeronly::Half(bits, torch::headeronly::Half::from_bits());
    }
  }

  uint32_t words[4] = {};
};

// The values from column `at` on, and zeros after the last one. Both branches give the same bits.
template <typename T, bool kAligned>
__device__ __forceinline__ Pack<T> load_pack(const typename T::Bits* row, int64_t at, int64_t dim) {
  Pack<T> pack;
  if constexpr (kAligned) {
    const uint4 bits = __ldg(reinterpret_cast<const uint4*>(row + at));
    pack.words[0] = bits.x, pack.words[1] = bits.y, pack.words[2] = bits.z, pack.words[3] = bits.w;
  } else {
    constexpr int kPerWord = 4 / sizeof(typename T::Bits);
#pragma unroll
    for (int i = 0; i < Pack<T>::kSize; ++i)
      if (at + i < dim)
        pack.words[i / kPerWord] |= static_cast<uint32_t>(__ldg(row + at + i))
                                    << 8 * sizeof(typename T::Bits) * (i % kPerWord);
  }
  return pack;
}

// How a row is read: as aligned words of 128 bits, as two of them that are shifted, or by value.
enum class Access { kAligned, kShifted, kByValue };

// Not inlined, because it is rarely called and would take registers.
template <typename T>
__device__ __noinline__ Pack<T> load_by_value(const typename T::Bits* row, int64_t at,
                                              int64_t dim) {
  return load_pack<T, false>(row, at, dim);
}

// What is loaded of a row from column `at` on. Loads are apart from what is done with them, so that
// those of several rows are in flight together.
template <typename T, Access kAccess>
struct Loaded {
  // Nothing where `row` is null.
  __device__ __forceinline__ void load(const typename T::Bits* row, int64_t at, int64_t dim) {
    if constexpr (kAccess == Access::kAligned) {
      if (row) a = __ldg(reinterpret_cast<const uint4*>(row + at));
    } else if constexpr (kAccess == Access::kShifted) {
      // The second word is in the cache: it is the first one of the next lane.
      const unsigned over = over_of(row);
      const auto words =
          reinterpret_cast<const uint4*>(reinterpret_cast<uintptr_t>(row + at) - over);
      if (row) a = __ldg(words);
      if (row && over + left_of(at, dim) * sizeof(typename T::Bits) > 16) b = __ldg(words + 1);
    } else {
      if (row) value = load_by_value<T>(row, at, dim);
    }
  }

  // The values, and zeros after the last one: the same bits for every access.
  __device__ __forceinline__ Pack<T> pack(const typename T::Bits* row, int64_t at,
                                          int64_t dim) const {
    if constexpr (kAccess == Access::kAligned) {
      return {{a.x, a.y, a.z, a.w}};
    } else if constexpr (kAccess == Access::kShifted) {
      constexpr int kPerWord = 4 / sizeof(typename T::Bits);
      const unsigned over = over_of(row);
      const int left = left_of(at, dim);
      uint32_t w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 6; ++i) w[i] = over & 8 ? w[i + 2] : w[i];
#pragma unroll
      for (int i = 0; i < 5; ++i) w[i] = over & 4 ? w[i + 1] : w[i];
      Pack<T> result;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        result.words[i] = kPerWord == 1 ? w[i] : __funnelshift_r(w[i], w[i + 1], (over & 2) * 8);
      if (left < Pack<T>::kSize) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int here = left - i * kPerWord;  // values of this word
          result.words[i] &= here >= kPerWord ? 0xffffffffu : here == 1 ? 0x0000ffffu : 0u;
        }
      }
      return result;
    } else {
      return value;
    }
  }

  // How far a row, and so each pack of it, is from an aligned word.
  static __device__ __forceinline__ unsigned over_of(const typename T::Bits* row) {
    return reinterpret_cast<uintptr_t>(row) % 16;
  }
  static __device__ __forceinline__ int left_of(int64_t at, int64_t dim) {
    return static_cast<int>(min(dim - at, int64_t{Pack<T>::kSize}));
  }

  uint4 a = {}, b = {};
  Pack<T> value;
};

// Adds the lane's share of the dot products of kRows rows with the query. A lane takes kPack
// columns of each 32 * kPack, in order, whatever the alignment: a score has one order of additions.
// Zeros after the last column change nothing, because a sum that starts at +0 is never -0.
template <typename T, Access kAccess, typename Query>
__device__ __forceinline__ void add_dot_products(const Rows<T>& table, const Query& query,
                                                 const int64_t (&ids)[kRows],
                                                 float (&sums)[kRows]) {
  constexpr int kPack = Rows<T>::kPack;
  // Rows of which words are in flight together: as many as there are registers for.
  constexpr int kTogether = kAccess == Access::kAligned ? kRows : 2;
  const typename T::Bits* rows[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) rows[r] = ids[r] < 0 ? nullptr : table.row(ids[r]);
  const int dim = static_cast<int>(table.dim);
#pragma unroll 1
  for (int at = lane_of_thread() * kPack; at < dim; at += kLanes * kPack) {
#pragma unroll
    for (int first = 0; first < kRows; first += kTogether) {
      Loaded<T, kAccess> loaded[kTogether];
#pragma unroll
      for (int r = 0; r < kTogether; ++r) loaded[r].load(rows[first + r], at, dim);
      Pack<T> packs[kTogether];
#pragma unroll
      for (int r = 0; r < kTogether; ++r) packs[r] = loaded[r].pack(rows[first + r], at, dim);
#pragma unroll
      for (int i = 0; i < kPack; i += 4) {
        const float4 q = query.four(at, i);
#pragma unroll
        for (int r = 0; r < kTogether; ++r) {
          sums[first + r] = fmaf(q.x, packs[r][i], sums[first + r]);
          sums[first + r] = fmaf(q.y, packs[r][i + 1], sums[first + r]);
          sums[first + r] = fmaf(q.z, packs[r][i + 2], sums[first + r]);
          sums[first + r] = fmaf(q.w, packs[r][i + 3], sums[first + r]);
        }
      }
    }
  }
}

template <typename Value>
__device__ __forceinline__ Value sum_over_lanes(Value sum) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  return sum;
}

// The score of an item's row, added up in float64: for pairs whose products or sums exceed float32,
// see rl4rec_kernels/ops/reference.py. The whole warp must call this. (Rows by reference would be
// copied to the stack.)
template <typename T, typename Query>
__device__ __noinline__ float score_in_float64(const typename T::Bits* row, int64_t dim,
                                               Query query) {
  constexpr int kPack = Rows<T>::kPack;
  double sum = 0.0;
  for (int64_t at = lane_of_thread() * kPack; at < dim; at += kLanes * kPack) {
    const Pack<T> pack = load_by_value<T>(row, at, dim);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sum += static_cast<double>(query.one(at + i)) * pack[i];
  }
  return static_cast<float>(sum_over_lanes(sum));
}

// The score of the lane's own item, or 0 where its id is -1. `query` gives float32 values, and
// zeros up to a multiple of kPack. The whole warp must call this.
template <typename T, typename Query>
__device__ __forceinline__ float score_with(const Rows<T>& table, const Query& query, int64_t id) {
  float score = 0.0f;
#pragma unroll 1
  for (int first = 0; first < kLanes; first += kRows) {
    int64_t ids[kRows];
    bool any = false, has_words = true;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      ids[r] = __shfl_sync(kAllLanes, id, first + r);
      if (ids[r] < 0) continue;
      any = true;
      has_words &= table.aligned || table.has_words_of(table.row(ids[r]));
    }
    if (!any) continue;
    float sums[kRows] = {};
    if (table.aligned) {
      add_dot_products<T, Access::kAligned>(table, query, ids, sums);
    } else if (has_words) {
      add_dot_products<T, Access::kShifted>(table, query, ids, sums);
    } else {
      add_dot_products<T, Access::kByValue>(table, query, ids, sums);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = sum_over_lanes(sums[r]);
      if (lane_of_thread() == first + r) score = sum;
    }
  }
  if (id < 0) score = 0.0f;  // a query that is not finite makes NaN of zeros
  unsigned open = __ballot_sync(kAllLanes, !(fabsf(score) <= kMaxFloat));
  for (; open != 0; open &= open - 1) {
    const int lane = __popc((open - 1) & ~open);
    const int64_t own_id = __shfl_sync(kAllLanes, id, lane);
    const float found = score_in_float64<T>(table.row(own_id), table.dim, query);
    if (lane_of_thread() == lane) score = found;
  }
  return score;
}

// The index of this thread's item among kThreads items. The warps take kRows of them in turn, so
// that all are busy if there are few.
__device__ __forceinline__ int slot_of_thread() {
  const int lane = lane_of_thread(), warp = warp_of_thread();
  return (lane / kRows * kWarps + warp) * kRows + lane % kRows;
}

}  // namespace rl4rec
