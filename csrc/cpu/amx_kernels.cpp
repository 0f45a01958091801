// Level scored by the matrix instructions of Intel AMX, or by their emulation, see amx.h. As in
// row_kernels.cpp, no header with inline functions may be included.
//
// A panel's vectors of 16 queries are matrices [words, 16] as the instructions want them, and rows
// of 64 bytes of 16 items are the other factor, in the table itself if it is aligned.
#include "cpu/amx.h"
#include "cpu/levels.h"
#include "cpu/softmax_rows.h"
#include "cpu/tile_counters.h"

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

const char* item_at(const void* items, int64_t stride, int64_t row, int64_t word) {
  return static_cast<const char*>(items) + row * stride + 4 * word;
}

// Scores of 32 items and two vectors of queries: four sums at a time keep the multiplier busy.
#define RL4REC_MULTIPLY_2X2(DOT, word, item_word)                \
  {                                                              \
    TILE_LOAD(4, item_at(items, stride, 0, item_word), stride);  \
    TILE_LOAD_PASSING(6, panel + 16 * (word), 64);               \
    TILE_LOAD(5, item_at(items, stride, 16, item_word), stride); \
    DOT(0, 4, 6);                                                \
    TILE_LOAD_PASSING(7, second + 16 * (word), 64);              \
    DOT(2, 5, 6);                                                \
    DOT(1, 4, 7);                                                \
    DOT(3, 5, 7);                                                \
  }
// Scores of 64 items and one vector of queries.
#define RL4REC_MULTIPLY_4X1(DOT, word, item_word)                \
  {                                                              \
    TILE_LOAD(6, panel + 16 * (word), 64);                       \
    TILE_LOAD(4, item_at(items, stride, 0, item_word), stride);  \
    DOT(0, 4, 6);                                                \
    TILE_LOAD(5, item_at(items, stride, 16, item_word), stride); \
    DOT(1, 5, 6);                                                \
    TILE_LOAD(7, item_at(items, stride, 32, item_word), stride); \
    DOT(2, 7, 6);                                                \
    TILE_LOAD(4, item_at(items, stride, 48, item_word), stride); \
    DOT(3, 4, 6);                                                \
  }
#define RL4REC_ZERO() \
  {                   \
    TILE_ZERO(0);     \
    TILE_ZERO(1);     \
    TILE_ZERO(2);     \
    TILE_ZERO(3);     \
  }
#define RL4REC_STORE_2X2(scores)      \
  {                                   \
    TILE_STORE(0, scores, 128);       \
    TILE_STORE(1, scores + 16, 128);  \
    TILE_STORE(2, scores + 512, 128); \
    TILE_STORE(3, scores + 528, 128); \
  }
#define RL4REC_STORE_4X1(scores)     \
  {                                  \
    TILE_STORE(0, scores, 64);       \
    TILE_STORE(1, scores + 256, 64); \
    TILE_STORE(2, scores + 512, 64); \
    TILE_STORE(3, scores + 768, 64); \
  }

// What is done while the multiplier of the tiles is busy: step() is called after every few
// multiplications.
struct Nothing {
  void step() {}
};
// Counts scores of 32 items and two vectors of queries.
class CountRows {
 public:
  [[gnu::always_inline]] explicit CountRows(const Uncounted& scores)
      : scores_(scores), counter_(scores.target) {}

  [[gnu::always_inline]] void step() {
    if (row_ == 32) return;
    counter_.add_two(scores_.scores + 32 * row_);
    counter_.add_two(scores_.scores + 32 * (row_ + 2));
    row_ += 4;
  }
  [[gnu::always_inline]] bool finish() {
    while (row_ < 32) step();
    return counter_.store(/*only_finite=*/true, scores_.above, scores_.tied);
  }

 private:
  const Uncounted& scores_;
  Counter<32> counter_;
  int64_t row_ = 0;
};
class CollectRows {
 public:
  [[gnu::always_inline]] explicit CollectRows(const Uncollected& scores)
      : scores_(scores), collector_(scores.low, scores.high, scores.above, scores.positions) {}

  [[gnu::always_inline]] void step() {
    if (row_ == 32) return;
    for (const int64_t end = row_ + 4; row_ < end; ++row_)
      collector_.add(row_, scores_.scores + 32 * row_);
  }
  [[gnu::always_inline]] int64_t finish() {
    while (row_ < 32) step();
    return collector_.store(scores_.above);
  }

 private:
  const Uncollected& scores_;
  Collector<32> collector_;
  int64_t row_ = 0;
};

// Whose products are added up.
enum class Pair { kBFloat16, kFloat16 };
#define RL4REC_DOT_PAIRS(c, a, b)          \
  {                                        \
    if constexpr (kPair == Pair::kFloat16) \
      TILE_DOT_FLOAT16(c, a, b);           \
    else                                   \
      TILE_DOT_BFLOAT16(c, a, b);          \
  }

template <Pair kPair>
struct Pairs {
  template <typename Meanwhile>
  [[gnu::always_inline]] static void score(const uint32_t* panel, const void* items, int64_t stride,
                                           int64_t words, const Int8Scales&, float* scores,
                                           Meanwhile& meanwhile) {
    const uint32_t* second = panel + 16 * words;
    RL4REC_ZERO();
    for (int64_t w = 0; w < words; w += kInstructionWords) {
      RL4REC_MULTIPLY_2X2(RL4REC_DOT_PAIRS, w, w);
      meanwhile.step();
    }
    RL4REC_STORE_2X2(scores);
  }
};

template <Pair kPair>
void score_narrow(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                  const Int8Scales&, float* scores) {
  RL4REC_ZERO();
  for (int64_t w = 0; w < words; w += kInstructionWords)
    RL4REC_MULTIPLY_4X1(RL4REC_DOT_PAIRS, w, w);
  RL4REC_STORE_4X1(scores);
}

// The first parts' product, and those of a first and a second part.
struct Split {
  template <typename Meanwhile>
  [[gnu::always_inline]] static void score(const uint32_t* panel, const void* items, int64_t stride,
                                           int64_t words, const Int8Scales&, float* scores,
                                           Meanwhile& meanwhile) {
    const uint32_t* second = panel + 16 * words;
    const int64_t half = words / 2;
    RL4REC_ZERO();
    for (int64_t w = 0; w < half; w += kInstructionWords) {
      RL4REC_MULTIPLY_2X2(TILE_DOT_BFLOAT16, w, w);
      meanwhile.step();
      RL4REC_MULTIPLY_2X2(TILE_DOT_BFLOAT16, half + w, w);
      RL4REC_MULTIPLY_2X2(TILE_DOT_BFLOAT16, w, half + w);
    }
    RL4REC_STORE_2X2(scores);
  }
};

template <int kLanes>
void scale_sums(const int32_t* sums, const Int8Scales& scales, float* scores) {
  for (int v = 0; v < kLanes; v += 16) {
    Floats lane_scale;
    __builtin_memcpy(&lane_scale, scales.lane_scale + v, sizeof(lane_scale));
    for (int64_t r = 0; r < kMaxTileScores / kLanes; ++r) {
      const Floats score = load_floats(sums + r * kLanes + v) * (lane_scale * scales.item_scale[r]);
      __builtin_memcpy(scores + r * kLanes + v, &score, sizeof(score));
    }
  }
}

struct Int8 {
  template <typename Meanwhile>
  [[gnu::always_inline]] static void score(const uint32_t* panel, const void* items, int64_t stride,
                                           int64_t words, const Int8Scales& scales, float* scores,
                                           Meanwhile& meanwhile) {
    const uint32_t* second = panel + 16 * words;
    alignas(64) int32_t sums[kMaxTileScores];
    RL4REC_ZERO();
    for (int64_t w = 0; w < words; w += kInstructionWords) {
      RL4REC_MULTIPLY_2X2(TILE_DOT_INT8, w, w);
      meanwhile.step();
    }
    RL4REC_STORE_2X2(sums);
    scale_sums<32>(sums, scales, scores);
  }
};

void score_int8_narrow(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                       const Int8Scales& scales, float* scores) {
  alignas(64) int32_t sums[kMaxTileScores];
  RL4REC_ZERO();
  for (int64_t w = 0; w < words; w += kInstructionWords) RL4REC_MULTIPLY_4X1(TILE_DOT_INT8, w, w);
  RL4REC_STORE_4X1(sums);
  scale_sums<16>(sums, scales, scores);
}

// Scores of 32 items and one vector of a panel's queries, both in two parts. The order of the
// instructions keeps additions to the same sum apart.
template <typename Meanwhile>
[[gnu::always_inline]] inline void score_split_int8(const uint32_t* panel, const void* items,
                                                    int64_t stride, int64_t words,
                                                    const float* lane_scale,
                                                    const float* item_scale, float* scores,
                                                    Meanwhile& meanwhile) {
  alignas(64) int32_t sums[2][32][16];  // of the first parts, and mixed
  const int64_t half = words / 2;
  RL4REC_ZERO();
  for (int64_t w = 0; w < half; w += kInstructionWords) {
    TILE_LOAD(4, item_at(items, stride, 0, w), stride);
    TILE_LOAD_PASSING(7, panel + 16 * (half + w), 64);
    TILE_DOT_INT8(2, 4, 7);
    TILE_LOAD(5, item_at(items, stride, 16, w), stride);
    TILE_DOT_INT8(3, 5, 7);
    TILE_LOAD_PASSING(6, panel + 16 * w, 64);
    TILE_DOT_INT8(0, 4, 6);
    meanwhile.step();
    TILE_LOAD(4, item_at(items, stride, 0, half + w), stride);
    TILE_DOT_INT8(2, 4, 6);
    TILE_LOAD(7, item_at(items, stride, 16, half + w), stride);
    TILE_DOT_INT8(3, 7, 6);
    TILE_DOT_INT8(1, 5, 6);
  }
  RL4REC_STORE_4X1(sums[0][0]);
  Floats lane_scales;
  __builtin_memcpy(&lane_scales, lane_scale, sizeof(lane_scales));
  for (int r = 0; r < 32; ++r) {
    const Floats sum = 256.0f * load_floats(sums[0][r]) + load_floats(sums[1][r]);
    const Floats score = sum * (lane_scales * item_scale[r]);
    __builtin_memcpy(scores + 32 * r, &score, sizeof(score));
  }
}

struct SplitInt8 {
  template <typename Meanwhile>
  [[gnu::always_inline]] static void score(const uint32_t* panel, const void* items, int64_t stride,
                                           int64_t words, const Int8Scales& scales, float* scores,
                                           Meanwhile& meanwhile) {
    for (int v = 0; v < 32; v += 16)
      score_split_int8(panel + v * words, items, stride, words, scales.lane_scale + v,
                       scales.item_scale, scores + v, meanwhile);
  }
};

// Scores of 32 items and two vectors of queries.
template <typename Kernel>
void score_wide(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                const Int8Scales& scales, float* scores) {
  Nothing nothing;
  Kernel::score(panel, items, stride, words, scales, scores, nothing);
}

template <typename Kernel>
bool score_and_count(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                     const Int8Scales& scales, float* scores, const Uncounted& others) {
  CountRows rows(others);
  Kernel::score(panel, items, stride, words, scales, scores, rows);
  return rows.finish();
}

template <typename Kernel>
int64_t score_and_collect(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                          const Int8Scales& scales, float* scores, const Uncollected& others) {
  CollectRows rows(others);
  Kernel::score(panel, items, stride, words, scales, scores, rows);
  return rows.finish();
}

int64_t score_and_add(const uint32_t* panel, const void* items, int64_t stride, int64_t words,
                      const Int8Scales& scales, float* scores, const Unsummed& others) {
  softmax::GroupMeanwhile<32> rows(others, words / kInstructionWords);
  Pairs<Pair::kBFloat16>::score(panel, items, stride, words, scales, scores, rows);
  return rows.finish();
}

// Without `narrow` there is no gain for few queries.
template <typename Kernel>
void set_kernels(Level& level, Arithmetic arithmetic, float cost,
                 decltype(TileKernels::score) narrow = nullptr) {
  level.wide[arithmetic] = {32,
                            32,
                            16,
                            kInstructionWords,
                            0,
                            cost,
                            score_wide<Kernel>,
                            nullptr,
                            nullptr,
                            score_and_count<Kernel>,
                            score_and_collect<Kernel>,
                            nullptr};
  if (!narrow) return;
  level.narrow[arithmetic] = {16,     64,      16,      kInstructionWords, 0,       cost,
                              narrow, nullptr, nullptr, nullptr,           nullptr, nullptr};
}

constexpr float kPairsCost = 0.018f;

}  // namespace

void set_amx_kernels(Level&);
void set_amx_kernels(Level& level) {
  set_kernels<Pairs<Pair::kBFloat16>>(level, kBFloat16Pairs, kPairsCost,
                                      score_narrow<Pair::kBFloat16>);
  set_kernels<Split>(level, kSplit, 0.05f);
  set_kernels<SplitInt8>(level, kSplitInt8, 0.027f);
  set_kernels<Int8>(level, kInt8Quads, 0.012f, score_int8_narrow);
  level.wide[kBFloat16Pairs].score_and_add = score_and_add;
  level.enter = configure_tiles;
  level.leave = release_tiles;
}

void set_amx_fp16_kernels(Level&);
void set_amx_fp16_kernels(Level& level) {
  set_kernels<Pairs<Pair::kFloat16>>(level, kFloat16Pairs, kPairsCost,
                                     score_narrow<Pair::kFloat16>);
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
