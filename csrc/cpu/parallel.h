// torch's parallel_for, which ThreadSanitizer can follow where the build is made for it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#ifdef __SANITIZE_THREAD__
#include <algorithm>

#include "sampler/parallel.h"
#endif

namespace rl4rec {

// Calls visit(begin, end) for stretches of [begin, end) of at least `grain`, from several threads.
template <typename Visit>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Visit& visit) {
#ifdef __SANITIZE_THREAD__
  // OpenMP waits in ways that ThreadSanitizer does not see: every result would look like a race.
  if (begin >= end) return;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t step = std::max(grain, (end - begin + threads - 1) / threads);
  const auto nobody_stops = [] {};
  run_in_parallel((end - begin + step - 1) / step, static_cast<int>(threads), nobody_stops, [&] {
    return [&](int64_t i) {
      const int64_t first = begin + i * step;
      visit(first, std::min(first + step, end));
    };
  });
#else
  torch::stable::parallel_for(begin, end, grain, visit);
#endif
}

}  // namespace rl4rec
