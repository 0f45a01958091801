// The kernels of kThreeInt8 by the matrix instructions of Intel AMX, or by their emulation, see
// amx.h. As in row_kernels.cpp, no header with inline functions may be included.
#include "cpu/amx.h"
#include "cpu/levels.h"
#include "cpu/softmax_rows.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

constexpr int kInstructionWords = 16;

// Of one vector of queries. Spelled out where the compiler finds another way to use vectors.
using Floats [[gnu::vector_size(64)]] = float;
using Integers [[gnu::vector_size(64)]] = int32_t;

[[gnu::always_inline]] inline Floats load_floats(const int32_t* sums) {
  Integers integers;
  __builtin_memcpy(&integers, sums, sizeof(integers));
  return __builtin_convertvector(integers, Floats);
}

// Six products of parts of 32 items and of one vector of queries. Those with the same weight have
// the same sums, tiles 0 to 2 for the first 16 items and 3 to 5 for others. Every instruction
// changes one factor, and four of them are between additions to the same sum, which take as long.
#define RL4REC_LOAD_ITEMS(part, row) \
  TILE_LOAD(6, item + (row) * stride + 4 * (part) * third, stride)
#define RL4REC_LOAD_QUERIES(part) TILE_LOAD_PASSING(7, query + 16 * (part) * third, 64)

// Scores of 32 items and one vector of queries of a panel of kLanes.
template <int kLanes, typename Meanwhile>
[[gnu::always_inline]] inline void score_vector(const uint32_t* panel, const void* items,
                                                int64_t stride, int64_t words,
                                                const float* lane_scale, const float* item_scale,
                                                float* scores, Meanwhile& meanwhile) {
  alignas(64) int32_t sums[3][32][16];  // by weight
  const int64_t third = words / 3;
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  TILE_ZERO(4);
  TILE_ZERO(5);
  for (int64_t w = 0; w < third; w += kInstructionWords) {
    const char* item = static_cast<const char*>(items) + 4 * w;
    const uint32_t* query = panel + 16 * w;
    RL4REC_LOAD_ITEMS(0, 0);
    RL4REC_LOAD_QUERIES(2);
    TILE_DOT_INT8(2, 6, 7);
    RL4REC_LOAD_ITEMS(0, 16);
    TILE_DOT_INT8(5, 6, 7);
    RL4REC_LOAD_QUERIES(1);
    TILE_DOT_INT8(4, 6, 7);
    RL4REC_LOAD_ITEMS(0, 0);
    TILE_DOT_INT8(1, 6, 7);
    meanwhile.step();
    RL4REC_LOAD_ITEMS(1, 0);
    TILE_DOT_INT8(2, 6, 7);
    RL4REC_LOAD_ITEMS(1, 16);
    TILE_DOT_INT8(5, 6, 7);
    RL4REC_LOAD_QUERIES(0);
    TILE_DOT_INT8(4, 6, 7);
    RL4REC_LOAD_ITEMS(1, 0);
    TILE_DOT_INT8(1, 6, 7);
    meanwhile.step();
    RL4REC_LOAD_ITEMS(2, 0);
    TILE_DOT_INT8(2, 6, 7);
    RL4REC_LOAD_ITEMS(2, 16);
    TILE_DOT_INT8(5, 6, 7);
    RL4REC_LOAD_ITEMS(0, 16);
    TILE_DOT_INT8(3, 6, 7);
    RL4REC_LOAD_ITEMS(0, 0);
    TILE_DOT_INT8(0, 6, 7);
    meanwhile.step();
  }
  TILE_STORE(0, sums[0][0], 64);
  TILE_STORE(3, sums[0][16], 64);
  TILE_STORE(1, sums[1][0], 64);
  TILE_STORE(4, sums[1][16], 64);
  TILE_STORE(2, sums[2][0], 64);
  TILE_STORE(5, sums[2][16], 64);
  Floats lane_scales;
  __builtin_memcpy(&lane_scales, lane_scale, sizeof(lane_scales));
  for (int r = 0; r < 32; ++r) {
    const Floats upper = 256.0f * load_floats(sums[0][r]) + load_floats(sums[1][r]);
    const Floats sum = 256.0f * upper + load_floats(sums[2][r]);
    const Floats score = sum * (lane_scales * item_scale[r]);
    __builtin_memcpy(scores + r * kLanes, &score, sizeof(score));
  }
}

struct Nothing {
  void step() {}
};

template <typename Meanwhile>
[[gnu::always_inline]] inline void score(const uint32_t* panel, const void* items, int64_t stride,
                                         int64_t words, const Int8Scales& scales, float* scores,
                                         Meanwhile& meanwhile) {
  for (int v = 0; v < 32; v += 16)
    score_vector<32>(panel + v * words, items, stride, words, scales.lane_scale + v,
                     scales.item_scale, scores + v, meanwhile);
}

void score_wide(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                const Int8Scales& scales, float* scores) {
  Nothing nothing;
  score(panel, items, stride, words, scales, scores, nothing);
}

void score_narrow(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                  const Int8Scales& scales, float* scores) {
  Nothing nothing;
  for (int r = 0; r < 64; r += 32)
    score_vector<16>(panel, static_cast<const char*>(items) + r * stride, stride, words,
                     scales.lane_scale, scales.item_scale + r, scores + 16 * r, nothing);
}

int64_t score_and_add(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                      const Int8Scales& scales, float* scores, const Unsummed& others) {
  softmax::GroupMeanwhile<32> rows(others, 2 * words / kInstructionWords);
  score(panel, items, stride, words, scales, scores, rows);
  return rows.finish();
}

}  // namespace

void set_three_int8_kernels(Level&);
void set_three_int8_kernels(Level& level) {
  TileKernels& wide = level.wide[kThreeInt8] = {};
  wide.lanes = wide.rows = 32;
  wide.vector_lanes = wide.word_step = kInstructionWords;
  wide.cost = 0.04f;
  TileKernels& narrow = level.narrow[kThreeInt8] = wide;
  narrow.lanes = 16;
  narrow.rows = 64;
  narrow.score = score_narrow;
  wide.score = score_wide;
  wide.score_and_add = score_and_add;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
