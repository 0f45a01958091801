// The table of levels, and the operators cpu_level and cpu_levels.
#include "cpu/levels.h"

#include <atomic>

#include "cpu/operator.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace rl4rec {

// A level's kernel files (see CMakeLists.txt) define some of these.
#define RL4REC_DECLARE_LEVEL(level)                                                     \
  namespace level {                                                                     \
  void set_row_kernels(Level&), set_rounding_kernels(Level&), set_tile_kernels(Level&), \
      set_softmax_kernels(Level&), set_dot_kernels(Level&), set_amx_kernels(Level&),    \
      set_product_kernels(Level&), set_int8_kernels(Level&), set_split_kernels(Level&), \
      set_three_int8_kernels(Level&), set_amx_fp16_kernels(Level&);                     \
  }
RL4REC_DECLARE_LEVEL(portable)
RL4REC_DECLARE_LEVEL(avx2)
RL4REC_DECLARE_LEVEL(avx512)
RL4REC_DECLARE_LEVEL(avx512_vnni)
RL4REC_DECLARE_LEVEL(avx512_bf16)
RL4REC_DECLARE_LEVEL(amx)
RL4REC_DECLARE_LEVEL(amx_emulated)

namespace {

struct LevelRow {
  const char* name;
  const char* base;  // has the kernels that this level does not set; "" for none
  bool (*is_supported)();
  std::vector<void (*)(Level&)> set_kernels;
  bool is_slower = false;  // than its base on this CPU, so that it has to be asked for
};

#if defined(__x86_64__)
#define HAS(feature) static_cast<bool>(__builtin_cpu_supports(feature))

// Whether the CPU has the tile registers of AMX and the kernel lets this process use them. It is
// asked once; it may refuse.
bool has_amx() {
#if defined(__linux__)
  constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25;
  constexpr unsigned kAll = kBFloat16 | kTiles | kInt8;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kAll) == kAll &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Whether the tiles of has_amx() multiply float16.
bool has_amx_fp16() {
  constexpr unsigned kFloat16 = 1u << 21;
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kFloat16) != 0;
}
#endif

// The best level is the last one that is supported and not slower than its base. A level is
// supported only if its base is.
const LevelRow kTable[] = {
    {"portable",
     "",
     [] { return true; },
     {portable::set_row_kernels, portable::set_rounding_kernels, portable::set_tile_kernels,
      portable::set_softmax_kernels}},
#if defined(__x86_64__)
    // For tests of the kernels for AMX on any machine. It is never the best level.
    {"amx_emulated",
     "avx2",
     [] { return true; },
     {avx2::set_row_kernels, avx2::set_rounding_kernels, avx2::set_tile_kernels,
      avx2::set_softmax_kernels, avx2::set_int8_kernels, amx_emulated::set_amx_kernels,
      amx_emulated::set_product_kernels, amx_emulated::set_split_kernels,
      amx_emulated::set_three_int8_kernels, amx_emulated::set_amx_fp16_kernels}},
    {"avx2",
     "portable",
     [] { return HAS("avx2") && HAS("fma") && HAS("f16c"); },
     {avx2::set_row_kernels, avx2::set_rounding_kernels, avx2::set_tile_kernels,
      avx2::set_softmax_kernels, avx2::set_int8_kernels}},
    {"avx512",
     "avx2",
     [] { return HAS("avx512f") && HAS("avx512bw") && HAS("avx512vl") && HAS("avx512dq"); },
     {avx512::set_row_kernels, avx512::set_rounding_kernels, avx512::set_tile_kernels,
      avx512::set_softmax_kernels, avx512::set_int8_kernels}},
    {"avx512_vnni",
     "avx512",
     [] { return HAS("avx512vnni"); },
     {avx512_vnni::set_dot_kernels, avx512_vnni::set_int8_kernels}},
    {"avx512_bf16",
     "avx512_vnni",
     [] { return HAS("avx512bf16"); },
     {avx512_bf16::set_dot_kernels},
     // AMD multiplies a pair of bfloat16 in the time of a float, Intel in about four times as much:
     // so does widening them, which leaves the multiplications to two units.
     static_cast<bool>(__builtin_cpu_is("intel"))},
    {"amx",
     "avx512_bf16",
     has_amx,
     {amx::set_amx_kernels, amx::set_product_kernels, amx::set_split_kernels,
      amx::set_three_int8_kernels}},
    {"amx_fp16", "amx", has_amx_fp16, {amx::set_amx_fp16_kernels}},
#endif
};

const LevelRow* find_row(const std::string& name) {
  for (const LevelRow& row : kTable)
    if (name == row.name) return &row;
  return nullptr;
}

// A level with the kernels of its base and its own; without a name if it is not supported.
Level make_level(const LevelRow& row) {
  const LevelRow* base = find_row(row.base);
  Level level = base ? make_level(*base) : Level{};
  const bool is_supported = (!base || level.name) && row.is_supported();
  level.name = is_supported ? row.name : nullptr;
  if (is_supported)
    for (const auto set : row.set_kernels) set(level);
  if (is_supported && row.is_slower)
    for (TileKernels* tiles : {level.wide, level.narrow})
      tiles[kBFloat16Pairs].cost = 2.0f * tiles[kFloat].cost;
  return level;
}

// Kernels that depend on the number of lanes only.
void set_lane_kernels(Level& level) {
  for (TileKernels* tiles : {level.wide, level.narrow})
    for (int arithmetic = 0; arithmetic < kNumArithmetics; ++arithmetic) {
      TileKernels& tile = tiles[arithmetic];
      if (!tile.score) continue;
      const int log2 = __builtin_ctzll(tile.lanes);
      tile.count = level.lanes.count[log2];
      tile.count_and_collect = level.lanes.count_and_collect[log2];
    }
}

// The levels that this CPU supports, the best one last.
const std::vector<Level>& supported_levels() {
  static const std::vector<Level> levels = [] {
    std::vector<Level> result;
    for (const LevelRow& row : kTable) {
      Level level = make_level(row);
      if (!level.name) continue;
      set_lane_kernels(level);
      result.insert(result.end() - row.is_slower, level);  // before its base
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
