// A parallel loop that can be interrupted.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

namespace rl4rec {

// Calls make_worker() once per thread, and the returned workers with the numbers in [0, count),
// each number once, in pieces that threads take when they are free. `poll` is called on the calling
// thread, twenty times per second, and throws in order to stop. An exception of a thread is
// rethrown here.
template <typename MakeWorker>
void run_in_parallel(int64_t count, int num_threads, const std::function<void()>& poll,
                     const MakeWorker& make_worker) {
  // Large enough that threads seldom write to the same cache line, small enough to balance the
  // load.
  const int64_t piece = std::clamp<int64_t>(count / (8 * int64_t{num_threads}), 1, 64);
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;  // written by the thread that sets `failed`, read after all joined

  const auto work = [&](bool polls) {
    try {
      auto worker = make_worker();
      auto last_poll = std::chrono::steady_clock::now();
      for (int64_t begin; !failed && (begin = next.fetch_add(piece)) < count;)
        for (int64_t i = begin; i < std::min(begin + piece, count) && !failed; ++i) {
          worker(i);
          if (!polls) continue;
          const auto now = std::chrono::steady_clock::now();
          if (now - last_poll < std::chrono::milliseconds(50)) continue;
          last_poll = now;
          poll();
        }
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };

  const int64_t num_helpers = std::min<int64_t>(num_threads, (count + piece - 1) / piece) - 1;
  std::vector<std::thread> helpers;
  helpers.reserve(std::max<int64_t>(num_helpers, 0));
  try {
    for (int64_t i = 0; i < num_helpers; ++i) helpers.emplace_back(work, false);
  } catch (const std::system_error&) {  // no more threads are available: those that exist do it
  }
  work(true);
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace rl4rec
