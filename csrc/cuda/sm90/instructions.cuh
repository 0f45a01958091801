// The instructions of Hopper (sm_90a) that have no C++ form: mbarriers, bulk copies of tensors, and
// products of warpgroups.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "cuda/candidates.cuh"

namespace rl4rec {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// The shared memory of the launch from a multiple of 1,024 on, which swizzled slices need.
__device__ __forceinline__ uint32_t aligned_shared() {
  return (shared_address(dynamic_shared()) + 1023) & ~1023u;
}

// An mbarrier in shared memory. A phase ends when `count` threads have arrived and all bytes that
// were announced are there; phases are told apart by their parity.
struct Barrier {
  __device__ __forceinline__ void init(int count) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(count) : "memory");
  }
  __device__ __forceinline__ void arrive() const {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
  }
  // Arrives at the barrier that another block of the cluster has here. It makes no writes visible
  // to that block: this would wait for all of them.
  __device__ __forceinline__ void arrive_in(uint32_t rank) const {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(address),
        "r"(rank)
        : "memory");
  }
  __device__ __forceinline__ void arrive_and_expect(uint32_t bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes)
                 : "memory");
  }
  // Waits for the end of the phase of this parity. That of the phase before the first is over.
  __device__ __forceinline__ void wait(uint32_t parity) const {
    uint32_t done = 0;
    while (!done)
      asm volatile(
          "{\n.reg .pred done;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n}\n"
          : "=r"(done)
          : "r"(address), "r"(parity)
          : "memory");
  }

  uint32_t address;
};

// The number of this block in its cluster, and a barrier of all threads of the cluster.
__device__ __forceinline__ uint32_t rank_in_cluster() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// What was stored to shared memory becomes visible to products and bulk copies.
__device__ __forceinline__ void fence_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Copies the box of the map that begins at column x and row y, with zeros outside of the matrix.
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap& map, int x, int y,
                                         Barrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier.address)
      : "memory");
}

// The same to this place of both blocks of a cluster, and each one's barrier of this address.
__device__ __forceinline__ void copy_box_to_both(uint32_t to, const CUtensorMap& map, int x, int y,
                                                 Barrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier.address), "h"(static_cast<uint16_t>(0b11))
      : "memory");
}

constexpr int kSliceRow = 128;  // bytes of a row in a slice, the width of a swizzle
template <typename T>
constexpr int kSliceDim = kSliceRow / sizeof(typename T::Bits);  // dimensions of a slice
constexpr int kWarpgroup = 128;
constexpr int kProductRows = 64, kTileItems = 256, kProductBytes = 32;  // of one product
constexpr int kScores = kProductRows * kTileItems / kWarpgroup;         // of a thread

// Where 16 bytes of a slice are: `row` and `chunk` (0 to 7) of a matrix with the swizzle.
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  return row * kSliceRow + ((chunk ^ row % 8) << 4);
}

__device__ __forceinline__ void store_chunk(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words[0]),
               "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

// Describes a slice of rows at an address that is a multiple of 1,024: 8 rows of 128 bytes after
// each other, with the swizzle of 128 bytes. kProductBytes further it is 2 more.
__device__ __forceinline__ uint64_t describe(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | 1ull << 16 |
         static_cast<uint64_t>(8 * kSliceRow >> 4) << 32 | 1ull << 62;
}

__device__ __forceinline__ void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

#define RL4REC_R8(kind, d, i)                                                                 \
  kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3]), kind(d[i + 4]), kind(d[i + 5]), \
      kind(d[i + 6]), kind(d[i + 7])
#define RL4REC_R32(kind, d, i)                                                  \
  RL4REC_R8(kind, d, i), RL4REC_R8(kind, d, i + 8), RL4REC_R8(kind, d, i + 16), \
      RL4REC_R8(kind, d, i + 24)
#define RL4REC_PRODUCT(types, kind, flags)                                                      \
  asm volatile(                                                                                 \
      "{\n.reg .pred keep;\nsetp.ne.b32 keep, %130, 0;\n"                                       \
      "wgmma.mma_async.sync.aligned.m64n256" types                                              \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "   \
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "   \
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, "   \
      "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, "   \
      "%87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, "     \
      "%103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "    \
      "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127},"                      \
      " %128, %129, keep" flags ";\n}\n"                                                        \
      : RL4REC_R32(kind, d, 0), RL4REC_R32(kind, d, 32), RL4REC_R32(kind, d, 64),               \
        RL4REC_R32(kind, d, 96)                                                                 \
      : "l"(a), "l"(b), "r"(static_cast<int>(keep)))

// d = a · b, or d + a · b with `keep`: 64 queries, 256 items, 16 dimensions, or 32 of int8. A
// thread has rows 16 warp + lane / 4 + {0, 8} and columns 8 j + lane % 4 * 2 + {0, 1}; value 4 j +
// 2 h + e is that of row h and column e of column group j. All scores, of tiles and of pairs, are
// chains of this instruction over the dimensions in order, so they are equal to the bit.
template <typename T, typename Sum>
__device__ __forceinline__ void multiply(Sum (&d)[kScores], uint64_t a, uint64_t b, bool keep) {
  if constexpr (std::is_same_v<T, Int8>) {
    RL4REC_PRODUCT("k32.s32.s8.s8", "+r", "");
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    RL4REC_PRODUCT("k16.f32.bf16.bf16", "+f", ", 1, 1, 0, 0");
  } else {
    RL4REC_PRODUCT("k16.f32.f16.f16", "+f", ", 1, 1, 0, 0");
  }
}

#undef RL4REC_PRODUCT
#undef RL4REC_R32
#undef RL4REC_R8

// The products of a slice of queries and a slice of items; `first` is whether it is the first one.
template <typename T, typename Sum>
__device__ __forceinline__ void multiply_slice(Sum (&d)[kScores], uint32_t queries, uint32_t items,
                                               bool first) {
  const uint64_t a = describe(queries), b = describe(items);
  begin_products();
#pragma unroll
  for (int i = 0; i < kSliceRow / kProductBytes; ++i)
    multiply<T>(d, a + 2 * i, b + 2 * i, i > 0 || !first);
}

}  // namespace rl4rec
