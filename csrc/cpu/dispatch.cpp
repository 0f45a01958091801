#include "cpu/dispatch.h"

#include <atomic>

#include "check.h"
#include "cpu/simd.h"

namespace rl4rec {
namespace {

std::vector<const Simd*> runnable() {
  std::vector<const Simd*> levels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool has_dot = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (has_avx2 && has_avx512 && has_dot) levels.push_back(&avx512_bf16::simd);
  if (has_avx2 && has_avx512) levels.push_back(&avx512::simd);
  if (has_avx2) levels.push_back(&avx2::simd);
#endif
  levels.push_back(&portable::simd);
  return levels;
}

std::atomic<const Simd*>& current() {
  static std::atomic<const Simd*> level{runnable().front()};
  return level;
}

}  // namespace

const Simd& simd() { return *current().load(std::memory_order_relaxed); }

std::vector<std::string> cpu_levels() {
  std::vector<std::string> names;
  for (const Simd* level : runnable()) names.emplace_back(level->name);
  return names;
}

std::string cpu_level(std::string name) {
  if (name.empty()) return simd().name;
  std::string known;
  for (const Simd* level : runnable()) {
    if (name == level->name) {
      current() = level;
      return name;
    }
    known += (known.empty() ? "" : ", ") + std::string(level->name);
  }
  check(false, "CPU level '", name, "' is not to be had on this machine; it has: ", known);
  return {};
}

}  // namespace rl4rec
