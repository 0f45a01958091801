// The kernels of softmax_kernels.h, for one level of CPU features. As in row_kernels.cpp, no header
// with inline functions may be included.
#include "cpu/softmax_rows.h"

namespace rl4rec {
namespace RL4REC_LEVEL {
namespace {

using namespace softmax;

template <int kLanes>
int64_t add_exponentials(const Unsummed& scores, int64_t num_rows, int64_t group) {
  uint32_t* next = scores.positions;
  for (int64_t first = 0; first < num_rows; first += group) {
    const int64_t end = num_rows - first < group ? num_rows : first + group;
    Group<kLanes> sums(scores);
    for (int64_t r = first; r < end; ++r) sums.add(scores.scores + r * kLanes);
    next = sums.finish(first, end - first, next);
  }
  return next - scores.positions;
}

template <int kLanes>
int64_t weigh(float* scores, int64_t num_rows, float scale, const float* reference,
              const float* factor, const float* limit, uint32_t* positions) {
  uint32_t* next = positions;
  const Powers powers(scale);
  for (int v = 0; v < kLanes; v += kWidth) {
    const Floats from = load(reference + v), times = load(factor + v), most = load(limit + v);
    for (int64_t r = 0; r < num_rows; ++r) {
      float* at = scores + r * kLanes + v;
      const Floats score = load(at);
      const Floats difference = score == from ? Floats{} : score - from;
      const Floats weight = times * powers(difference);
      store(at, weight);
      const Floats magnitude = (Floats)((Words)weight & 0x7fffffff);
      next = write_positions(bits_of(magnitude > most), r * kLanes + v, next);
    }
  }
  return next - positions;
}

void exp2(float* values, int64_t n) {
  const Powers powers(1.0f);
  for (int64_t i = 0; i < n; i += kWidth) store(values + i, powers(load(values + i)));
}

template <int kLanes>
void set_lanes(SoftmaxLaneKernels& kernels) {
  if constexpr (kLanes >= kWidth) kernels = {add_exponentials<kLanes>, weigh<kLanes>};
}

}  // namespace

void set_softmax_kernels(Level&);
void set_softmax_kernels(Level& level) {
  level.softmax = {};
  set_lanes<4>(level.softmax.lanes[2]);
  set_lanes<8>(level.softmax.lanes[3]);
  set_lanes<16>(level.softmax.lanes[4]);
  set_lanes<32>(level.softmax.lanes[5]);
  level.softmax.exp2 = exp2;
}

}  // namespace RL4REC_LEVEL
}  // namespace rl4rec
