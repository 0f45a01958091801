// The instructions of Intel AMX that the tile kernels use, with two bodies: the intrinsics, and an
// emulation for machines without AMX, to the bit by Intel's definition (Intel 64 and IA-32
// Architectures Software Developer's Manual, volume 2, TDPBF16PS, TDPFP16PS and TDPBSSD).
//
// A tile register holds 16 rows of 64 bytes. With tiles A [16, 64 bytes] of items and B [16, 64
// bytes] of queries, `TILE_DOT_BFLOAT16(c, a, b)` adds to C[m][n] (float32) the products of the
// pairs of bfloat16 A[m][k] and B[k][n]: one chain of fused multiply-adds for the first of each
// pair and one for the second, both from zero, are added up and then added to C. Denormal inputs
// and results count as zero. `TILE_DOT_FLOAT16` does the same for float16, whose denormals keep
// their values: CPUs with AMX-FP16 have it. `TILE_DOT_INT8` does it for quadruples of signed int8
// and int32.
//
// `TILE_LOAD_PASSING` is for what passes through many times, a tile at a time: it leaves the L1
// cache to the other factor, which stays.
//
// Tiles are named by literal numbers: the assembler wants them so.
#pragma once

#include <cstdint>

#if defined(__AMX_TILE__)
#include <immintrin.h>

namespace rl4rec::RL4REC_LEVEL {
namespace {

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// Static: of a local variable GCC 12 would think that only its first bytes are read.
constexpr TileShapes kTileShapes;

// Tells the processor the shape of all tile registers, for the thread that calls.
inline void configure_tiles() { _tile_loadconfig(&kTileShapes); }

// Without tiles in use, the system need not save them when it switches threads.
inline void release_tiles() { _tile_release(); }

}  // namespace
}  // namespace rl4rec::RL4REC_LEVEL

#define TILE_ZERO(tile) _tile_zero(tile)
#define TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define TILE_LOAD_PASSING(tile, from, stride) _tile_stream_loadd(tile, from, stride)
#define TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define TILE_DOT_BFLOAT16(c, a, b) _tile_dpbf16ps(c, a, b)
// tdpfp16ps %tmm<b>, %tmm<a>, %tmm<c>, which GCC 12 and older assemblers do not know:
// VEX.128.F2.0F38.W0 5C 11:c:a, with b inverted in the prefix.
#define TILE_DOT_FLOAT16(c, a, b) \
  __asm__ volatile(".byte 0xc4, 0xe2, 0x7b ^ (" #b " << 3), 0x5c, 0xc0 | (" #c " << 3) | " #a ::)
#define TILE_DOT_INT8(c, a, b) _tile_dpbssd(c, a, b)

#else

#include <immintrin.h>

namespace rl4rec::RL4REC_LEVEL {
namespace {

struct EmulatedTile {
  alignas(64) uint32_t word[16][16];
};
thread_local EmulatedTile emulated_tiles[8];

inline void configure_tiles() {}
inline void release_tiles() {}

inline void tile_zero(int tile) {
  __builtin_memset(&emulated_tiles[tile], 0, sizeof(EmulatedTile));
}
inline void tile_load(int tile, const void* from, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    __builtin_memcpy(emulated_tiles[tile].word[row], static_cast<const char*>(from) + row * stride,
                     64);
}
inline void tile_store(int tile, void* to, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    __builtin_memcpy(static_cast<char*>(to) + row * stride, emulated_tiles[tile].word[row], 64);
}

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
// A denormal becomes a zero of its sign.
inline float flushed(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return from_bits(bits & 0x7f800000 ? bits : bits & 0x80000000);
}
inline float from_bfloat16(uint32_t bits) { return flushed(from_bits(bits << 16)); }
inline float from_float16(uint32_t bits) { return _cvtsh_ss(static_cast<uint16_t>(bits)); }

template <float (*kFromBits)(uint32_t)>
inline void tile_dot_pairs(int c, int a, int b) {
  float queries[2][16][16];  // the first of each pair, and the second
  for (int k = 0; k < 16; ++k)
    for (int n = 0; n < 16; ++n) {
      queries[0][k][n] = kFromBits(emulated_tiles[b].word[k][n] & 0xffff);
      queries[1][k][n] = kFromBits(emulated_tiles[b].word[k][n] >> 16);
    }
  for (int m = 0; m < 16; ++m) {
    float first[16] = {}, second[16] = {};
    for (int k = 0; k < 16; ++k) {
      const uint32_t item = emulated_tiles[a].word[m][k];
      const float item_first = kFromBits(item & 0xffff), item_second = kFromBits(item >> 16);
      for (int n = 0; n < 16; ++n) {
        first[n] = flushed(__builtin_fmaf(item_first, queries[0][k][n], first[n]));
        second[n] = flushed(__builtin_fmaf(item_second, queries[1][k][n], second[n]));
      }
    }
    for (int n = 0; n < 16; ++n) {
      const float before = flushed(from_bits(emulated_tiles[c].word[m][n]));
      const float sum = flushed(before + flushed(first[n] + second[n]));
      __builtin_memcpy(&emulated_tiles[c].word[m][n], &sum, sizeof(sum));
    }
  }
}

inline void tile_dot_int8(int c, int a, int b) {
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n)
        for (int byte = 0; byte < 4; ++byte) {
          const auto item = static_cast<int8_t>(emulated_tiles[a].word[m][k] >> (8 * byte));
          const auto query = static_cast<int8_t>(emulated_tiles[b].word[k][n] >> (8 * byte));
          emulated_tiles[c].word[m][n] += static_cast<uint32_t>(item * query);
        }
}

}  // namespace
}  // namespace rl4rec::RL4REC_LEVEL

#define TILE_ZERO(tile) tile_zero(tile)
#define TILE_LOAD(tile, from, stride) tile_load(tile, from, stride)
#define TILE_LOAD_PASSING(tile, from, stride) tile_load(tile, from, stride)
#define TILE_STORE(tile, to, stride) tile_store(tile, to, stride)
#define TILE_DOT_BFLOAT16(c, a, b) tile_dot_pairs<from_bfloat16>(c, a, b)
#define TILE_DOT_FLOAT16(c, a, b) tile_dot_pairs<from_float16>(c, a, b)
#define TILE_DOT_INT8(c, a, b) tile_dot_int8(c, a, b)

#endif
