// Scores all items and hands the scores to an epilogue: what the host does for tile_kernel.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda/arguments.cuh"
#include "cuda/sm90/excluded.cuh"
#include "cuda/sm90/tensor_map.cuh"

namespace rl4rec {
namespace {

constexpr int kPackThreads = 256;

// A bit for each item, in words of 32; 0 after the last item.
__global__ void __launch_bounds__(kPackThreads)
    pack_kernel(const uint8_t* valid, int64_t count, uint32_t* words) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  const uint32_t bits = __ballot_sync(kAllLanes, item < count && valid[item]);
  if (lane_of_thread() == 0) words[item / kLanes] = bits;
}

// Rows that the copy engine can read: the parts of a row, each `width` columns with zeros behind
// the values.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const Rows<T> rows, typename Multiplied<T>::Bits* prepared, int64_t width,
                   const int* needed) {
  if (needed && *needed == 0) return;
  const int64_t row = blockIdx.x;
  for (int part = 0; part < kParts<T>; ++part)
    for (int64_t j = threadIdx.x; j < width; j += kThreads)
      prepared[(row * kParts<T> + part) * width + j] =
          j < rows.dim ? part_at(rows, row, j, part) : 0;
}

bool is_vector(const Tensor& tensor, const Tensor& like, ScalarType type, int64_t size) {
  return on_device(tensor, like.get_device_index()) && tensor.scalar_type() == type &&
         tensor.dim() == 1 && tensor.size(0) == size && (size <= 1 || tensor.stride(0) == 1);
}

// Queries and items of dtypes that can be multiplied, on a device that has the kernels.
struct Sides {
  Sides(const Tensor& query_tensor, const Tensor& table_tensor, const OptionalTensor& query_scale,
        const OptionalTensor& table_scale)
      : device(query_tensor),
        query(query_tensor, "query", query_tensor.get_device_index(), true),
        table(table_tensor, "table", query_tensor.get_device_index(), true) {
    check(device.capability() == 90, "the kernels for catalogs run on compute capability 9.0, not ",
          device.capability() / 10, ".", device.capability() % 10);
    const ScalarType type = query.owner.scalar_type(), other = table.owner.scalar_type();
    const bool is_float8 = type == ScalarType::BFloat16 && other == ScalarType::Float8_e4m3fn;
    const bool is_int8 = type == ScalarType::Char && other == type;
    check((type == other && type != ScalarType::Float8_e4m3fn) || is_float8 ||
              (type == ScalarType::Float && other == ScalarType::BFloat16),
          "query and table must be of one dtype, float32 and bfloat16, or bfloat16 and float8");
    check(query.dim == table.dim, "query has ", query.dim, " dimensions, table ", table.dim);
    const int64_t limit = std::numeric_limits<int32_t>::max() - kTileItems;
    check(query.rows <= limit && table.rows <= limit, "query and table must have at most ", limit,
          " rows, got ", query.rows, " and ", table.rows);
    constexpr int64_t kMostSummed = 1 << 17;  // of products of int8 in int32
    check(!is_int8 || query.dim <= kMostSummed, "query must have at most ", kMostSummed,
          " dimensions of int8, got ", query.dim);
    scales = {read_scales(query_scale, "query_scale", is_int8, query.rows),
              read_scales(table_scale, "table_scale", is_int8 || is_float8, tiles() * kTileItems)};
  }

  // Calls fn(Operands<...>()). Without kScales quantized tables are an error.
  template <bool kScales, typename Fn>
  void with_types(const Fn& fn) const {
    const ScalarType type = query.owner.scalar_type(), other = table.owner.scalar_type();
    if (type == ScalarType::Half) return fn(Operands<Float16, Float16>());
    if constexpr (kScales) {
      if (type == ScalarType::Char) return fn(Operands<Int8, Int8>());
      if (other == ScalarType::Float8_e4m3fn) return fn(Operands<BFloat16, Float8>());
    }
    if (type == ScalarType::Float && other == type) return fn(Operands<Float32, Float32>());
    if (type == ScalarType::Float) return fn(Operands<Float32, BFloat16>());
    check(type == ScalarType::BFloat16 && other == type,
          "this operator does not take the dtypes of query and table");
    fn(Operands<BFloat16, BFloat16>());
  }

  int64_t query_blocks() const { return (query.rows + kBlockQueries - 1) / kBlockQueries; }
  int64_t tiles() const { return (table.rows + kTileItems - 1) / kTileItems; }

  // Excluded pairs, int32, and where those of each tile begin in them, int64, see Excluded.
  Excluded excluded(const OptionalTensor& pairs, const OptionalTensor& starts) const {
    check(pairs.has_value() == starts.has_value(), "pairs go with starts");
    if (!pairs) return {};
    const int64_t cells = query_blocks() * tiles();
    check(is_vector(*pairs, query.owner, ScalarType::Int, pairs->numel()) &&
              is_vector(*starts, query.owner, ScalarType::Long, cells + 1),
          "pairs must be contiguous int32 and starts int64 [", cells + 1, "] on ", kDeviceName);
    return {pairs->const_data_ptr<int32_t>(), starts->const_data_ptr<int64_t>(),
            static_cast<int>(tiles())};
  }

  const Device device;
  Matrix query, table;
  Scales scales;
  const int* needed = nullptr;  // the kernels do nothing where this is 0

 private:
  // Of items as many as there are in all tiles, so that they are read in pairs.
  const float* read_scales(const OptionalTensor& given, const char* name, bool needed,
                           int64_t size) const {
    check(given.has_value() == needed, name,
          " is needed for int8, and that of the table for float8");
    if (!given) return nullptr;
    const float* data = static_cast<const float*>(given->const_data_ptr());
    check(is_vector(*given, query.owner, ScalarType::Float, size) &&
              reinterpret_cast<uintptr_t>(data) % sizeof(float2) == 0,
          name, " must be contiguous float32 [", size, "] on ", kDeviceName);
    return data;
  }
};

// Blocks of a cluster: two where items are copied by boxes and it takes no longer, as counted in
// docs/gpu.md; or as many as RL4REC_CLUSTER says, to measure it. A multiprocessor copies and
// multiplies at the same time; a partner without queries takes as long as one with queries.
template <typename Types>
int blocks_together(const Work<Types>& w) {
  constexpr int kItems = Types::kItemParts, kQueries = Types::kQueryParts;
  constexpr int64_t kProducts = kItems * kQueries - kItems * (kItems - 1) / 2;
  constexpr int64_t kMeanwhile = 29'600;  // bytes that L2 gives it during the products of a slice
  const auto time = [&](int64_t together) {
    const int64_t copied =
        kItems * kItemBytes / together + (w.resident ? 0 : kQueries * kQueryBytes);
    return std::max(copied, kProducts * kMeanwhile) * ((w.query_blocks + together - 1) / together) *
           together;
  };
  const char* wanted = std::getenv("RL4REC_CLUSTER");
  const bool is_given = wanted && *wanted;
  check(!is_given || !std::strcmp(wanted, "1") || !std::strcmp(wanted, "2"),
        "RL4REC_CLUSTER must be 1 or 2, got ", is_given ? wanted : "");
  if (!w.by_boxes) return 1;
  return is_given ? *wanted - '0' : time(2) <= time(1) ? 2 : 1;
}

// Shares the tiles among blocks, one of which runs on a multiprocessor at a time. Unless ranges are
// given, of those that take up to eight rounds the ones are chosen whose rounds, the last one
// included, take the least time.
template <typename Types>
int64_t share_tiles(Work<Types>& w, int64_t processors, int64_t tiles_a_range) {
  const int64_t at_once = std::max<int64_t>(1, processors / w.together);  // clusters
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t rounds = 1; rounds <= 8; ++rounds) {
    int64_t ranges = rounds * at_once / w.groups();
    ranges = ranges < 1 ? 1 : ranges < w.tiles ? ranges : w.tiles;
    const int64_t tiles = tiles_a_range ? tiles_a_range : (w.tiles + ranges - 1) / ranges;
    ranges = (w.tiles + tiles - 1) / tiles;
    const int64_t time = (w.groups() * ranges + at_once - 1) / at_once * tiles;
    if (time >= least) continue;
    least = time;
    w.ranges = static_cast<int>(ranges), w.tiles_a_range = static_cast<int>(tiles);
  }
  return std::min<int64_t>(at_once, static_cast<int64_t>(w.groups()) * w.ranges) * w.together;
}

// A matrix as the copy engine reads it: itself, or a copy with padded rows, or with parts.
template <typename T>
struct Boxes {
  using Made = Multiplied<T>;
  using Bits = typename Made::Bits;
  static constexpr int kChunk = 16 / sizeof(Bits);

  static bool can_read(const Rows<T>& rows) {
    return !kIsMade<T> && rows.dim > 0 && reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 &&
           (rows.count <= 1 || (rows.stride % kChunk == 0 && rows.stride >= rows.dim));
  }
  // Columns of a part: parts begin where slices do.
  static int64_t width_of(int64_t dim) {
    constexpr int kMultiple = kParts<T> == 1 ? kChunk : kSliceDim<Made>;
    return dim == 0 ? kMultiple : (dim + kMultiple - 1) / kMultiple * kMultiple;
  }

  Boxes(const Sides& sides, const Rows<T>& rows, int box_rows) {
    width = static_cast<int>(width_of(rows.dim));
    if (can_read(rows)) {
      const int64_t stride = rows.count <= 1 ? width : rows.stride;
      map = describe_matrix<Made>(rows.data, rows.count, rows.dim, stride, box_rows);
      return;
    }
    const int64_t columns = kParts<T> * width;
    const int64_t sizes[] = {rows.count, columns};
    constexpr ScalarType kBytes = sizeof(Bits) == 1 ? ScalarType::Char : ScalarType::BFloat16;
    copy = torch::stable::new_empty(sides.query.owner, sizes, kBytes);
    Bits* data = static_cast<Bits*>(copy->mutable_data_ptr());
    sides.device.launch(prepare_kernel<T>, rows.count, kThreads, 0, rows, data,
                        static_cast<int64_t>(width), sides.needed);
    map = describe_matrix<Made>(data, rows.count, columns, columns, box_rows);
  }

  CUtensorMap map;
  int width;
  OptionalTensor copy;
};

// Tiles of a launch: all, or as many as there is room to make values of, in whole ranges.
template <typename Types>
int64_t tiles_at_once(const Sides& sides, const Rows<typename Types::Item>& table,
                      int64_t tiles_a_range) {
  using Item = typename Types::Item;
  if (Types::kByValue || Boxes<Item>::can_read(table)) return sides.tiles();
  const int64_t unit = tiles_a_range ? tiles_a_range : 1;
  const int64_t width = kParts<Item> * Boxes<Item>::width_of(sides.table.dim);
  const int64_t bytes = width * sizeof(typename Multiplied<Item>::Bits) * kTileItems * unit;
  return std::max<int64_t>(1, sides.device.scratch_bytes() / bytes) * unit;
}

// Scores all items and hands the scores to the epilogue. `tiles_a_range` is 0 where results do not
// depend on it.
template <typename Epilogue>
void score_tiles(const Sides& sides, const OptionalTensor& valid, const Epilogue& epilogue,
                 int64_t tiles_a_range = 0) {
  const Tensor& query = sides.query.owner;
  const int64_t num_queries = sides.query.rows, num_items = sides.table.rows;
  check(!valid || is_vector(*valid, query, ScalarType::Bool, num_items),
        "valid must be contiguous bool [", num_items, "] on ", kDeviceName);
  if (num_queries == 0 || num_items == 0) return;
  const int64_t tiles = sides.tiles();
  OptionalTensor words;
  if (valid) {
    words = torch::stable::new_empty(query, {tiles * kMaskWords}, ScalarType::Int);
    sides.device.launch(pack_kernel, tiles, kPackThreads, 0,
                        static_cast<const uint8_t*>(valid->const_data_ptr()), num_items,
                        static_cast<uint32_t*>(words->mutable_data_ptr()));
  }
  sides.with_types<Epilogue::kScales>([&](auto types) {
    using Types = decltype(types);
    Work<Types> w = {};
    w.query = sides.query.as_rows<typename Types::Query>();
    w.table = sides.table.as_rows<typename Types::Item>();
    w.valid = words ? static_cast<const uint32_t*>(words->const_data_ptr()) : nullptr;
    w.scales = sides.scales, w.needed = sides.needed;
    constexpr int kSlice = kSliceDim<typename Types::Product>;
    w.slices = w.query.dim == 0 ? 1 : static_cast<int>((w.query.dim + kSlice - 1) / kSlice);
    w.query_blocks = static_cast<int>(sides.query_blocks());
    w.resident = w.slices * Types::kQueryParts <= kResidentSlices;
    w.by_boxes = !Types::kByValue || Boxes<typename Types::Item>::can_read(w.table);
    w.together = blocks_together(w);
    const Boxes<typename Types::Query> queries(sides, w.query, kBlockQueries);
    w.query_width = queries.width;
    sides.device.allow_shared(tile_kernel<Types, Epilogue>, w.shared_bytes());
    const int64_t step = tiles_at_once<Types>(sides, w.table, tiles_a_range);
    for (int64_t first = 0; first < tiles; first += step) {
      w.first_tile = static_cast<int>(first);
      w.tiles = static_cast<int>(tiles - first < step ? tiles - first : step);
      w.first_range = tiles_a_range ? static_cast<int>(first / tiles_a_range) : 0;
      Rows<typename Types::Item> own = w.table;
      own.data += first * kTileItems * own.stride;
      own.count -= first * kTileItems;
      if (own.count > step * kTileItems) own.count = step * kTileItems;
      std::optional<Boxes<typename Types::Item>> items;
      if (w.by_boxes) items.emplace(sides, own, kTileItems / w.together);
      if (items) w.table_width = items->width;
      const int64_t blocks = share_tiles(w, sides.device.processors(), tiles_a_range);
      sides.device.launch_clusters(tile_kernel<Types, Epilogue>, w.together, blocks, kTileThreads,
                                   w.shared_bytes(), queries.map,
                                   items ? items->map : CUtensorMap{}, w, epilogue);
    }
  });
}

}  // namespace
}  // namespace rl4rec
