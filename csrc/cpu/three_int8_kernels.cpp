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

// The sums of 32 items and one vector of queries, by weight.
struct alignas(64) Sums {
  int32_t of[3][32][16];
};

template <typename Meanwhile>
[[gnu::always_inline]] inline void multiply(const uint32_t* panel, const void* items,
                                            int64_t stride, int64_t words, Sums& sums,
                                            Meanwhile& meanwhile) {
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
    RL4REC_LOAD_ITEMS(0, 16);
    RL4REC_LOAD_QUERIES(0);
    TILE_DOT_INT8(3, 6, 7);
    RL4REC_LOAD_ITEMS(0, 0);
    TILE_DOT_INT8(0, 6, 7);
    RL4REC_LOAD_ITEMS(2, 0);
    TILE_DOT_INT8(2, 6, 7);
    RL4REC_LOAD_ITEMS(2, 16);
    TILE_DOT_INT8(5, 6, 7);
    meanwhile.step();
    RL4REC_LOAD_ITEMS(1, 16);
    TILE_DOT_INT8(4, 6, 7);
    RL4REC_LOAD_ITEMS(1, 0);
    TILE_DOT_INT8(1, 6, 7);
    RL4REC_LOAD_QUERIES(1);
    TILE_DOT_INT8(2, 6, 7);
    RL4REC_LOAD_ITEMS(1, 16);
    TILE_DOT_INT8(5, 6, 7);
    meanwhile.step();
    RL4REC_LOAD_ITEMS(0, 16);
    TILE_DOT_INT8(4, 6, 7);
    RL4REC_LOAD_ITEMS(0, 0);
    TILE_DOT_INT8(1, 6, 7);
    RL4REC_LOAD_QUERIES(2);
    TILE_DOT_INT8(2, 6, 7);
    RL4REC_LOAD_ITEMS(0, 16);
    TILE_DOT_INT8(5, 6, 7);
    meanwhile.step();
  }
  TILE_STORE(0, sums.of[0][0], 64);
  TILE_STORE(3, sums.of[0][16], 64);
  TILE_STORE(1, sums.of[1][0], 64);
  TILE_STORE(4, sums.of[1][16], 64);
  TILE_STORE(2, sums.of[2][0], 64);
  TILE_STORE(5, sums.of[2][16], 64);
}

// Turns sums into scores of a panel of kLanes, a row after the other.
template <int kLanes>
class Rows {
 public:
  [[gnu::always_inline]] Rows(const Sums& sums, const float* lane_scale, const float* item_scale,
                              float* scores)
      : sums_(sums), item_scale_(item_scale), scores_(scores) {
    __builtin_memcpy(&lane_scales_, lane_scale, sizeof(lane_scales_));
  }
  [[gnu::always_inline]] void add(int64_t end) {
    for (; row_ < end && row_ < 32; ++row_) {
      const Floats upper = 256.0f * load_floats(sums_.of[0][row_]) + load_floats(sums_.of[1][row_]);
      const Floats sum = 256.0f * upper + load_floats(sums_.of[2][row_]);
      const Floats score = sum * (lane_scales_ * item_scale_[row_]);
      __builtin_memcpy(scores_ + row_ * kLanes, &score, sizeof(score));
    }
  }
  [[gnu::always_inline]] int64_t row() const { return row_; }

 private:
  const Sums& sums_;
  Floats lane_scales_;
  const float* item_scale_;
  float* scores_;
  int64_t row_ = 0;
};

struct Nothing {
  void step() {}
};
// What is stored takes a while to be loaded again. So the first vector's sums become scores while
// the second one's are computed.
template <int kLanes, typename Meanwhile>
struct RowsAnd {
  [[gnu::always_inline]] void step() {
    rows.add(rows.row() + rows_per_step);
    meanwhile.step();
  }
  Rows<kLanes>& rows;
  const int64_t rows_per_step;
  Meanwhile& meanwhile;
};

// 32 items and one vector of queries, half of what a kernel scores.
struct Half {
  const uint32_t* panel;
  const void* items;
  const float *lane_scale, *item_scale;
  float* scores;
};
template <int kLanes, typename Meanwhile>
[[gnu::always_inline]] inline void score_halves(const Half (&half)[2], int64_t stride,
                                                int64_t words, Meanwhile& meanwhile) {
  Sums sums[2];
  multiply(half[0].panel, half[0].items, stride, words, sums[0], meanwhile);
  Rows<kLanes> rows(sums[0], half[0].lane_scale, half[0].item_scale, half[0].scores);
  const int64_t num_steps = words / kInstructionWords;
  RowsAnd<kLanes, Meanwhile> both{rows, num_steps > 0 ? 31 / num_steps + 1 : 32, meanwhile};
  multiply(half[1].panel, half[1].items, stride, words, sums[1], both);
  rows.add(32);
  Rows<kLanes>(sums[1], half[1].lane_scale, half[1].item_scale, half[1].scores).add(32);
}

template <typename Meanwhile>
[[gnu::always_inline]] inline void score(const uint32_t* panel, const void* items, int64_t stride,
                                         int64_t words, const Int8Scales& scales, float* scores,
                                         Meanwhile& meanwhile) {
  const Half halves[2] = {
      {panel, items, scales.lane_scale, scales.item_scale, scores},
      {panel + 16 * words, items, scales.lane_scale + 16, scales.item_scale, scores + 16}};
  score_halves<32>(halves, stride, words, meanwhile);
}

void score_wide(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                const Int8Scales& scales, float* scores) {
  Nothing nothing;
  score(panel, items, stride, words, scales, scores, nothing);
}

void score_narrow(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                  const Int8Scales& scales, float* scores) {
  Nothing nothing;
  const Half halves[2] = {{panel, items, scales.lane_scale, scales.item_scale, scores},
                          {panel, static_cast<const char*>(items) + 32 * stride, scales.lane_scale,
                           scales.item_scale + 32, scores + 16 * 32}};
  score_halves<16>(halves, stride, words, nothing);
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
