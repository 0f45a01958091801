// torch's parallel_for, in a form that ThreadSanitizer can follow if the build is for it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#ifdef __SSE__
#include <xmmintrin.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <algorithm>

#include "sampler/parallel.h"
#endif

namespace rl4rec {

// Lets a thread count subnormal numbers, even if torch.set_flush_denormal(True) was called in it:
// scores must not depend on the thread.
class KeepSubnormals {
#ifdef __SSE__
 public:
  KeepSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ & ~0x8040u); }
  KeepSubnormals(const KeepSubnormals&) = delete;
  ~KeepSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

// Calls fn(begin, end) for parts of [begin, end) of at least `grain`, from several threads.
template <typename Fn>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Fn& fn) {
#ifdef __SANITIZE_THREAD__
  // ThreadSanitizer does not see how OpenMP waits: it would report a race for every result.
  if (begin >= end) return;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t step = std::max(grain, (end - begin + threads - 1) / threads);
  const auto never_stop = [] {};
  run_in_parallel((end - begin + step - 1) / step, static_cast<int>(threads), never_stop, [&] {
    return [&](int64_t i) {
      [[maybe_unused]] const KeepSubnormals keep;
      const int64_t first = begin + i * step;
      fn(first, std::min(first + step, end));
    };
  });
#else
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
    [[maybe_unused]] const KeepSubnormals keep;
    fn(first, last);
  });
#endif
}

}  // namespace rl4rec
