// Scores all items and hands the scores to an epilogue: what the host does for tile_kernel.
#pragma once

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

// Rows of another width, with zeros behind the values: rows that the copy engine can read.
__global__ void pad_kernel(const uint16_t* values, int64_t dim, int64_t stride, uint16_t* padded,
                           int64_t width) {
  for (int64_t j = threadIdx.x; j < width; j += kThreads)
    padded[blockIdx.x * width + j] = j < dim ? values[blockIdx.x * stride + j] : 0;
}

// Queries and items of one dtype of 16 bits, on a device that has the kernels.
struct Sides {
  Sides(const Tensor& query_tensor, const Tensor& table_tensor)
      : device(query_tensor),
        query(query_tensor, "query", query_tensor.get_device_index()),
        table(table_tensor, "table", query_tensor.get_device_index()) {
    check(device.capability() == 90, "the kernels for catalogs run on compute capability 9.0, not ",
          device.capability() / 10, ".", device.capability() % 10);
    const ScalarType type = query.owner.scalar_type();
    check(type == table.owner.scalar_type() && type != ScalarType::Float,
          "query and table must both be bfloat16 or both float16");
    check(query.dim == table.dim, "query has ", query.dim, " dimensions, table ", table.dim);
    const int64_t limit = std::numeric_limits<int32_t>::max() - kTileItems;
    check(query.rows <= limit && table.rows <= limit, "query and table must have at most ", limit,
          " rows, got ", query.rows, " and ", table.rows);
  }

  template <typename Fn>
  void with_type(const Fn& fn) const {
    if (query.owner.scalar_type() == ScalarType::BFloat16) {
      fn(BFloat16());
    } else {
      fn(Float16());
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
template <typename T>
int64_t share_tiles(Work<T>& w, int64_t at_once, int64_t tiles_a_range) {
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

// A matrix as the copy engine reads it: itself, or a copy with padded rows.
struct Boxes {
  template <typename T>
  static bool can_read(const Rows<T>& rows) {
    return rows.dim > 0 && reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 &&
           (rows.count <= 1 || (rows.stride % 8 == 0 && rows.stride >= rows.dim));
  }

  template <typename T>
  static CUtensorMap of(const Rows<T>& rows, int box_rows) {
    const int64_t stride = rows.count <= 1 ? (rows.dim + 7) / 8 * 8 : rows.stride;
    return describe_matrix(rows.data, std::is_same_v<T, BFloat16>, rows.count, rows.dim, 2 * stride,
                           box_rows);
  }
};

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
  OptionalTensor words, padded;
  if (valid) {
    words = torch::stable::new_empty(query, {tiles * kMaskWords}, ScalarType::Int);
    sides.device.launch(pack_kernel, tiles, kPackThreads, 0,
                        static_cast<const uint8_t*>(valid->const_data_ptr()), num_items,
                        static_cast<uint32_t*>(words->mutable_data_ptr()));
  }
  sides.with_type([&](auto type) {
    using T = decltype(type);
    Work<T> w = {};
    w.query = sides.query.as_rows<T>(), w.table = sides.table.as_rows<T>();
    Rows<T> read = w.query;
    if (!Boxes::can_read(read)) {
      read.stride = read.dim = read.dim == 0 ? 8 : (read.dim + 7) / 8 * 8;
      const int64_t sizes[] = {num_queries, read.dim};
      padded = torch::stable::new_empty(query, sizes);
      uint16_t* data = static_cast<uint16_t*>(padded->mutable_data_ptr());
      sides.device.launch(pad_kernel, num_queries, kThreads, 0, w.query.data, w.query.dim,
                          w.query.stride, data, read.dim);
      read.data = data;
    }
    w.valid = words ? static_cast<const uint32_t*>(words->const_data_ptr()) : nullptr;
    w.slices = w.query.dim == 0 ? 1 : static_cast<int>((w.query.dim + kSliceDim - 1) / kSliceDim);
    w.query_blocks = static_cast<int>(sides.query_blocks());
    w.tiles = static_cast<int>(tiles);
    w.resident = w.slices <= kResidentSlices;
    w.by_boxes = Boxes::can_read(w.table);
    const int64_t blocks = share_tiles(w, sides.device.processors(), tiles_a_range);
    const CUtensorMap queries = Boxes::of(read, kBlockQueries);
    const CUtensorMap items = w.by_boxes ? Boxes::of(w.table, kTileItems) : CUtensorMap{};
    sides.device.allow_shared(tile_kernel<T, Epilogue>, w.shared_bytes());
    sides.device.launch(tile_kernel<T, Epilogue>, blocks, kTileThreads, w.shared_bytes(), queries,
                        items, w, epilogue);
  });
}

}  // namespace
}  // namespace rl4rec
