// Scores all items and hands the scores to an epilogue: what the host does for tile_kernel.
#pragma once

#include <algorithm>

#include "cuda/arguments.cuh"
#include "cuda/sm90/tensor_map.cuh"
#include "cuda/sm90/tiles.cuh"

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
    prepare_kernel(const Rows<T> rows, uint16_t* prepared, int64_t width) {
  constexpr int kParts = Operands<T, T>::kQueryParts;
  const int64_t row = blockIdx.x;
  for (int part = 0; part < kParts; ++part)
    for (int64_t j = threadIdx.x; j < width; j += kThreads)
      prepared[(row * kParts + part) * width + j] = j < rows.dim ? part_at(rows, row, j, part) : 0;
}

// Queries and items of dtypes that can be multiplied, on a device that has the kernels.
struct Sides {
  Sides(const Tensor& query_tensor, const Tensor& table_tensor)
      : device(query_tensor),
        query(query_tensor, "query", query_tensor.get_device_index()),
        table(table_tensor, "table", query_tensor.get_device_index()) {
    check(device.capability() == 90, "the kernels for catalogs run on compute capability 9.0, not ",
          device.capability() / 10, ".", device.capability() % 10);
    const ScalarType type = query.owner.scalar_type(), other = table.owner.scalar_type();
    check(type == other || (type == ScalarType::Float && other == ScalarType::BFloat16),
          "query and table must be of one dtype, or float32 and bfloat16");
    check(query.dim == table.dim, "query has ", query.dim, " dimensions, table ", table.dim);
    const int64_t limit = std::numeric_limits<int32_t>::max() - kTileItems;
    check(query.rows <= limit && table.rows <= limit, "query and table must have at most ", limit,
          " rows, got ", query.rows, " and ", table.rows);
  }

  // Calls fn(Operands<...>()). Without kSplit, float32 is an error.
  template <bool kSplit, typename Fn>
  void with_types(const Fn& fn) const {
    const ScalarType type = query.owner.scalar_type();
    if (type == ScalarType::BFloat16) return fn(Operands<BFloat16, BFloat16>());
    if (type == ScalarType::Half) return fn(Operands<Float16, Float16>());
    if constexpr (kSplit) {
      if (table.owner.scalar_type() == type) return fn(Operands<Float32, Float32>());
      return fn(Operands<Float32, BFloat16>());
    } else {
      check(false, "query must be bfloat16 or float16");
    }
  }

  int64_t query_blocks() const { return (query.rows + kBlockQueries - 1) / kBlockQueries; }
  int64_t tiles() const { return (table.rows + kTileItems - 1) / kTileItems; }

  const Device device;
  Matrix query, table;
};

bool is_vector(const Tensor& tensor, const Tensor& like, ScalarType type, int64_t size) {
  return on_device(tensor, like.get_device_index()) && tensor.scalar_type() == type &&
         tensor.dim() == 1 && tensor.size(0) == size && (size <= 1 || tensor.stride(0) == 1);
}

// Shares the tiles among blocks, one of which runs on a multiprocessor at a time. Unless ranges are
// given, of those that take up to eight rounds the ones are chosen whose rounds, the last one
// included, take the least time.
template <typename Types>
int64_t share_tiles(Work<Types>& w, int64_t at_once, int64_t tiles_a_range) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t rounds = 1; rounds <= 8; ++rounds) {
    int64_t ranges = rounds * at_once / w.query_blocks;
    ranges = ranges < 1 ? 1 : ranges < w.tiles ? ranges : w.tiles;
    const int64_t tiles = tiles_a_range ? tiles_a_range : (w.tiles + ranges - 1) / ranges;
    ranges = (w.tiles + tiles - 1) / tiles;
    const int64_t time = (w.query_blocks * ranges + at_once - 1) / at_once * tiles;
    if (time >= least) continue;
    least = time;
    w.ranges = static_cast<int>(ranges), w.tiles_a_range = static_cast<int>(tiles);
  }
  const int64_t units = static_cast<int64_t>(w.query_blocks) * w.ranges;
  return units < at_once ? units : at_once;
}

// A matrix as the copy engine reads it: itself, or a copy with padded rows, or with parts.
template <typename T>
struct Boxes {
  static constexpr int kParts = Operands<T, T>::kQueryParts;

  static bool can_read(const Rows<T>& rows) {
    return kParts == 1 && rows.dim > 0 && reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 &&
           (rows.count <= 1 || (rows.stride % 8 == 0 && rows.stride >= rows.dim));
  }
  // Columns of a part: parts begin where slices do.
  static int64_t width_of(int64_t dim) {
    constexpr int kMultiple = kParts == 1 ? 8 : kSliceDim;
    return dim == 0 ? kMultiple : (dim + kMultiple - 1) / kMultiple * kMultiple;
  }

  Boxes(const Sides& sides, const Rows<T>& rows, int box_rows) {
    constexpr bool kIsBFloat16 = !std::is_same_v<T, Float16>;
    width = static_cast<int>(width_of(rows.dim));
    if (can_read(rows)) {
      const int64_t stride = rows.count <= 1 ? width : rows.stride;
      map = describe_matrix(rows.data, kIsBFloat16, rows.count, rows.dim, 2 * stride, box_rows);
      return;
    }
    const int64_t columns = kParts * width;
    const int64_t sizes[] = {rows.count, columns};
    copy = torch::stable::new_empty(sides.query.owner, sizes, ScalarType::BFloat16);
    uint16_t* data = static_cast<uint16_t*>(copy->mutable_data_ptr());
    sides.device.launch(prepare_kernel<T>, rows.count, kThreads, 0, rows, data,
                        static_cast<int64_t>(width));
    map = describe_matrix(data, kIsBFloat16, rows.count, columns, 2 * columns, box_rows);
  }

  CUtensorMap map;
  int width;
  OptionalTensor copy;
};

// Tiles of a launch: all, or as many as there is room for parts of, in whole ranges.
template <typename Types>
int64_t tiles_at_once(const Sides& sides, int64_t tiles_a_range) {
  using Items = Boxes<typename Types::Item>;
  if (Items::kParts == 1) return sides.tiles();
  const int64_t unit = tiles_a_range ? tiles_a_range : 1;
  const int64_t bytes = 2 * Items::kParts * Items::width_of(sides.table.dim) * kTileItems * unit;
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
  sides.with_types<Epilogue::kSplits>([&](auto types) {
    using Types = decltype(types);
    Work<Types> w = {};
    w.query = sides.query.as_rows<typename Types::Query>();
    w.table = sides.table.as_rows<typename Types::Item>();
    w.valid = words ? static_cast<const uint32_t*>(words->const_data_ptr()) : nullptr;
    w.slices = w.query.dim == 0 ? 1 : static_cast<int>((w.query.dim + kSliceDim - 1) / kSliceDim);
    w.query_blocks = static_cast<int>(sides.query_blocks());
    w.resident = w.slices * Types::kQueryParts <= kResidentSlices;
    w.by_boxes = Types::kItemParts > 1 || Boxes<typename Types::Item>::can_read(w.table);
    const Boxes<typename Types::Query> queries(sides, w.query, kBlockQueries);
    w.query_width = queries.width;
    sides.device.allow_shared(tile_kernel<Types, Epilogue>, w.shared_bytes());
    const int64_t step = tiles_at_once<Types>(sides, tiles_a_range);
    for (int64_t first = 0; first < tiles; first += step) {
      w.first_tile = static_cast<int>(first);
      w.tiles = static_cast<int>(tiles - first < step ? tiles - first : step);
      w.first_range = tiles_a_range ? static_cast<int>(first / tiles_a_range) : 0;
      Rows<typename Types::Item> own = w.table;
      own.data += first * kTileItems * own.stride;
      own.count -= first * kTileItems;
      if (own.count > step * kTileItems) own.count = step * kTileItems;
      std::optional<Boxes<typename Types::Item>> items;
      if (w.by_boxes) items.emplace(sides, own, kTileItems);
      if (items) w.table_width = items->width;
      const int64_t blocks = share_tiles(w, sides.device.processors(), tiles_a_range);
      sides.device.launch(tile_kernel<Types, Epilogue>, blocks, kTileThreads, w.shared_bytes(),
                          queries.map, items ? items->map : CUtensorMap{}, w, epilogue);
    }
  });
}

}  // namespace
}  // namespace rl4rec
