// The table of levels, and the operators cpu_level and cpu_levels.
#include "cpu/levels.h"

#include <atomic>

#include "cpu/operator.h"

namespace rl4rec {

// A level's kernel files (see CMakeLists.txt) define some of these.
#define RL4REC_DECLARE_LEVEL(level)                                                \
  namespace level {                                                                \
  void set_row_kernels(Level&), set_tile_kernels(Level&), set_dot_kernels(Level&); \
  }
RL4REC_DECLARE_LEVEL(portable)
RL4REC_DECLARE_LEVEL(avx2)
RL4REC_DECLARE_LEVEL(avx512)
RL4REC_DECLARE_LEVEL(avx512_bf16)

namespace {

struct LevelRow {
  const char* name;
  bool (*is_supported)();
  std::vector<void (*)(Level&)> set_kernels;
};

#define HAS(feature) static_cast<bool>(__builtin_cpu_supports(feature))

// A level has the kernels of the row before it, except those that it sets itself. It is supported
// only if the row before it is.
const LevelRow kTable[] = {
    {"portable", [] { return true; }, {portable::set_row_kernels, portable::set_tile_kernels}},
#if defined(__x86_64__)
    {"avx2",
     [] { return HAS("avx2") && HAS("fma") && HAS("f16c"); },
     {avx2::set_row_kernels, avx2::set_tile_kernels}},
    {"avx512",
     [] { return HAS("avx512f") && HAS("avx512bw") && HAS("avx512vl") && HAS("avx512dq"); },
     {avx512::set_row_kernels, avx512::set_tile_kernels}},
    {"avx512_bf16",
     [] { return HAS("avx512bf16") && HAS("avx512vnni"); },
     {avx512_bf16::set_dot_kernels}},
#endif
};

// The levels that this CPU supports, in the order of the table.
const std::vector<Level>& supported_levels() {
  static const std::vector<Level> levels = [] {
    std::vector<Level> result;
    Level level = {};
    for (const LevelRow& row : kTable) {
      if (!row.is_supported()) break;
      level.name = row.name;
      for (const auto set : row.set_kernels) set(level);
      result.push_back(level);
    }
    return result;
  }();
  return levels;
}

std::atomic<const Level*>& current() {
  static std::atomic<const Level*> level{&supported_levels().back()};
  return level;
}

// Names of the levels that this CPU supports, best first.
std::vector<std::string> cpu_levels() {
  std::vector<std::string> names;
  for (const Level& level : supported_levels()) names.insert(names.begin(), level.name);
  return names;
}

// Switches to a level by name; an empty name only asks. Returns the name of the level in use.
std::string cpu_level(std::string name) {
  std::string known;
  for (const Level& level : supported_levels()) {
    if (name == level.name) {
      current() = &level;
      return name;
    }
    known += (known.empty() ? "" : ", ") + std::string(level.name);
  }
  check(name.empty(), "CPU level '", name,
        "' is not available on this machine, which has: ", known);
  return level().name;
}

RL4REC_OPERATOR_FOR(CompositeExplicitAutograd, cpu_level, "(str name) -> str")
RL4REC_OPERATOR_FOR(CompositeExplicitAutograd, cpu_levels, "() -> str[]")

}  // namespace

const Level& level() { return *current().load(std::memory_order_relaxed); }

}  // namespace rl4rec
