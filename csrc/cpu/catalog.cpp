#include "cpu/catalog.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/tuning.h"

namespace rl4rec {
namespace {

TileKernels tile_for(Arithmetic arithmetic, int64_t num_queries) {
  const Level& level = rl4rec::level();
  if (arithmetic == kFew) {
    int log2 = 0;
    while ((int64_t{1} << log2) < num_queries) ++log2;
    return {int64_t{1} << log2,
            kFewRows,
            1,
            1,
            0,
            0.0f,
            nullptr,
            level.lanes.count[log2],
            level.lanes.count_and_collect[log2],
            nullptr,
            nullptr,
            nullptr};
  }
  const TileKernels& narrow = level.narrow[arithmetic];
  return narrow.score && num_queries <= narrow.lanes ? narrow : level.wide[arithmetic];
}

Arithmetic arithmetic_for(Storage items, Storage query) {
  if (items == kBFloat16 && query == kBFloat16 && level().wide[kBFloat16Pairs].score)
    return kBFloat16Pairs;
  if (items == kInt8 && level().wide[kInt8Quads].score) return kInt8Quads;
  return kFloat;
}

int64_t divide_up(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

int64_t round_up(int64_t n, int64_t multiple) { return divide_up(n, multiple) * multiple; }

int64_t words_of(Arithmetic arithmetic, int64_t dim, int64_t step) {
  switch (arithmetic) {
    case kBFloat16Pairs:
    case kFloat16Pairs: return round_up(divide_up(dim, 2), step);
    case kSplit: return 2 * round_up(divide_up(dim, 2), step);
    case kSplitInt8: return 2 * round_up(divide_up(dim, 4), step);
    case kThreeInt8: return 3 * round_up(divide_up(dim, 4), step);
    case kInt8Quads: return round_up(divide_up(dim, 4), step);
    case kFew: return round_up(dim, kStep);
    default: return dim;
  }
}

int64_t count_panels(const Catalog& catalog, int64_t num_queries) {
  return std::max<int64_t>(1, divide_up(num_queries, catalog.tile.lanes));
}

Partition divide(const Catalog& catalog, int64_t num_queries, int64_t groups, int64_t ranges) {
  Partition result;
  result.num_queries = num_queries;
  result.num_items = catalog.items.rows;
  result.group_queries = round_up(divide_up(std::max<int64_t>(1, num_queries), groups), kMaxLanes);
  result.num_groups = divide_up(num_queries, result.group_queries);
  result.range_rows = std::max(divide_up(result.num_items, ranges), 16 * catalog.tile.rows);
  result.num_ranges = std::max<int64_t>(1, divide_up(result.num_items, result.range_rows));
  return result;
}

const void* optional_data(const OptionalTensor& given, OptionalTensor& owner) {
  if (!given) return nullptr;
  owner = torch::stable::contiguous(*given);
  return owner->const_data_ptr();
}

}  // namespace

AlignedWords make_words(int64_t count) {
  constexpr int64_t kCacheLine = 64;
  const size_t bytes = round_up(std::max<int64_t>(4 * count, 1), kCacheLine);
  AlignedWords words(static_cast<uint32_t*>(std::aligned_alloc(kCacheLine, bytes)));
  if (!words) throw std::bad_alloc();
  std::memset(words.get(), 0, bytes);
  return words;
}

Catalog::Catalog(const Tensor& table, const OptionalTensor& row_stats, const OptionalTensor& valid,
                 const Embeddings& queries, std::optional<Arithmetic> approximation)
    : items(table, "table", row_stats.has_value()),
      query_storage(row_stats && items.storage != kFloat32 ? items.storage : queries.storage),
      arithmetic(approximation ? *approximation : arithmetic_for(items.storage, query_storage)),
      rounds(approximation && *approximation != kFew),
      tile(tile_for(arithmetic, queries.rows)) {
  if (rounds) query_storage = kBFloat16;
  if (arithmetic == kFew) query_storage = queries.storage;
  check_same_dim(queries, items);
  check(items.rows < (int64_t{1} << 31), "table must have at most 2^31 - 1 rows, got ", items.rows,
        "; slice it");
  if (row_stats)
    check(row_stats->is_cpu() && row_stats->scalar_type() == ScalarType::Float &&
              row_stats->dim() == 2 && row_stats->size(0) == items.rows && row_stats->size(1) == 3,
          "row_stats must be float32 [", items.rows, ", 3] on the CPU");
  if (valid)
    check(valid->is_cpu() && valid->scalar_type() == ScalarType::Bool && valid->dim() == 1 &&
              valid->size(0) == items.rows,
          "valid must be bool [", items.rows, "] on the CPU");
  this->row_stats = static_cast<const float*>(optional_data(row_stats, row_stats_owner_));
  this->valid = static_cast<const bool*>(optional_data(valid, valid_owner_));
  words = words_of(arithmetic, items.dim, tile.word_step);
  if (arithmetic == kFew && items.storage == kInt8) words /= 2;
  // Kernels that read whole cache lines are much slower if these are not aligned.
  const int64_t bytes = items.dim * items.value_bytes;
  const bool has_aligned_words = bytes == 4 * words && items.row_bytes % 64 == 0 &&
                                 reinterpret_cast<uintptr_t>(items.data) % 64 == 0;
  loads_in_place = arithmetic == kFew || (!rounds && tile.word_step > 1 && has_aligned_words);
}

ItemTile::ItemTile(const Catalog& catalog) : catalog_(catalog) {
  // An odd number of cache lines, so that rows do not share sets of the L1 cache. Rows of floats,
  // and rows that are rounded, are written in whole steps.
  const bool in_steps = catalog.arithmetic == kFloat || catalog.rounds;
  const int64_t words = std::max(catalog.words, catalog.items.padded_dim() * in_steps);
  stride_ = ((words + 15) / 16 | 1) * 64;
}

int64_t ItemTile::load(int64_t first, int64_t end) {
  size_ = 0;
  norms_ = {};
  scale_range_ = kNoValues;
  if (catalog_.loads_in_place && load_in_place(first, end)) return first + size_;
  make_room();
  for (; first < end && size_ < catalog_.tile.rows; ++first)
    if (catalog_.is_valid(first)) add(first);
  return first;
}

void ItemTile::load_ids(const int64_t* ids, int64_t n) {
  size_ = 0;
  scale_range_ = kNoValues;
  make_room();
  for (int64_t i = 0; i < n; ++i) add(ids[i]);
}

// For copies of items. Tiles that are loaded in place have none.
void ItemTile::make_room() {
  if (!words_) words_ = make_words(stride_ / 4 * catalog_.tile.rows);
  data_ = words_.get();
  data_stride_ = stride_;
}

// Loads a whole tile, if all of its rows are valid; the last one for few queries may have less.
bool ItemTile::load_in_place(int64_t first, int64_t end) {
  const int64_t n =
      catalog_.arithmetic == kFew ? std::min(end - first, kFewRows) : catalog_.tile.rows;
  if (end - first < n) return false;
  for (int64_t r = 0; r < n; ++r)
    if (!catalog_.is_valid(first + r)) return false;
  RowNorms norms{};  // in local variables, which stay in registers
  Extremes range = kNoValues;
  for (int64_t r = 0; r < n; ++r) {
    ids_[r] = first + r;
    scales_[r] = catalog_.scale(first + r);
    range.include(scales_[r]);
  }
  for (int64_t r = 0; r < n && catalog_.row_stats; ++r) {
    norms.norm = std::max(norms.norm, catalog_.norm(first + r));
    norms.error = std::max(norms.error, catalog_.error(first + r));
  }
  include(norms);
  scale_range_ = range;
  size_ = n;
  data_ = catalog_.items.row(first);
  data_stride_ = catalog_.items.row_bytes;
  return true;
}

void ItemTile::include(const RowNorms& norms) {
  norms_.norm = std::max(norms_.norm, norms.norm);
  norms_.error = std::max(norms_.error, norms.error);
  norms_.rest = std::max(norms_.rest, norms.rest);
}

void ItemTile::add(int64_t id) {
  uint32_t* to = words_.get() + size_ * stride_ / 4;
  const Embeddings& items = catalog_.items;
  const int64_t bytes = items.dim * items.value_bytes;
  float scale = catalog_.scale(id);
  if (catalog_.rounds) {
    prefetch_row(items, std::min(id + kRoundedAhead, items.rows - 1));
    RowNorms norms;
    catalog_.round_row(items, id, to, &scale, &norms);
    include(norms);
  } else if (catalog_.arithmetic == kFloat) {
    items.copy_row(id, reinterpret_cast<float*>(to));
  } else {
    std::copy_n(static_cast<const char*>(items.row(id)), bytes, reinterpret_cast<char*>(to));
    if (catalog_.arithmetic == kInt8Quads && catalog_.tile.int8_offset == 128)
      for (int64_t w = 0; w < catalog_.words; ++w) to[w] ^= 0x80808080;  // adds 128 to every byte
  }
  if (catalog_.row_stats) include_stats(id);
  ids_[size_] = id;
  scales_[size_++] = scale;
}

void ItemTile::include_stats(int64_t id) {
  include({catalog_.norm(id), catalog_.error(id), 0.0f});
  scale_range_.include(catalog_.scale(id));
}

void ItemTile::score_few(const Panels& panels) {
  const Embeddings& items = catalog_.items;
  const int64_t lanes = catalog_.tile.lanes;
  const int log2 = __builtin_ctzll(lanes);
  if (items.storage == kInt8) {
    level().score_few_int8[log2](reinterpret_cast<const int16_t*>(panels.panel(0)), data_,
                                 data_stride_, size_, items.dim, few_scores_);
    const Int8Scales scales = panels.scales(0, scales_);
    for (int64_t r = 0; r < size_; ++r)
      for (int64_t l = 0; l < lanes; ++l)
        few_scores_[r * lanes + l] *= scales.lane_scale[l] * scales_[r];
    return;
  }
  level().rows.score_few[log2][items.storage](reinterpret_cast<const float*>(panels.panel(0)),
                                              data_, data_stride_, size_, items.dim, few_scores_,
                                              &norms_.norm);
}

void ItemTile::multiply(const Panels& panels, int64_t p, float* scores) const {
  const TileKernels& tile = catalog_.tile;
  if (catalog_.arithmetic == kFew) {
    std::copy_n(few_scores_, size_ * tile.lanes, scores);
    return;
  }
  const Int8Scales scales = panels.scales(p, scales_);
  tile.score(panels.panel(p), data_, data_stride_, catalog_.words, scales, scores);
  if (catalog_.items.storage == kInt8 && catalog_.arithmetic == kFloat)
    for (int64_t r = 0; r < size_; ++r)
      for (int64_t l = 0; l < tile.lanes; ++l)
        scores[r * tile.lanes + l] *= scales.lane_scale[l] * scales_[r];
}

bool ItemTile::multiply_and_count(const Panels& panels, int64_t p, float* scores,
                                  const Uncounted& others) const {
  return catalog_.tile.score_and_count(panels.panel(p), data_, data_stride_, catalog_.words,
                                       panels.scales(p, scales_), scores, others);
}

int64_t ItemTile::multiply_and_collect(const Panels& panels, int64_t p, float* scores,
                                       const Uncollected& others) const {
  return catalog_.tile.score_and_collect(panels.panel(p), data_, data_stride_, catalog_.words,
                                         panels.scales(p, scales_), scores, others);
}

int64_t ItemTile::multiply_and_add(const Panels& panels, int64_t p, float* scores,
                                   const Unsummed& others) const {
  return catalog_.tile.score_and_add(panels.panel(p), data_, data_stride_, catalog_.words,
                                     panels.scales(p, scales_), scores, others);
}

int64_t ItemTile::find(int64_t id) const {
  const int64_t* at = std::lower_bound(ids_, ids_ + size_, id);
  return at < ids_ + size_ && *at == id ? at - ids_ : -1;
}

Partition Partition::by_items(const Catalog& catalog, int64_t num_queries, int64_t max_panels) {
  const int64_t groups = divide_up(count_panels(catalog, num_queries), max_panels);
  return divide(catalog, num_queries, groups, torch::stable::get_num_threads());
}

Partition Partition::by_queries(const Catalog& catalog, int64_t num_queries, int64_t max_panels) {
  const int64_t panels = count_panels(catalog, num_queries);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t groups =
      std::min(panels, divide_up(divide_up(panels, max_panels), threads) * threads);
  return divide(catalog, num_queries, groups, groups >= threads ? 1 : threads);
}

int64_t Partition::panels_at_once(const Catalog& catalog) {
  const int64_t panel_bytes = std::max<int64_t>(1, 4 * catalog.words * catalog.tile.lanes);
  static const int64_t kPanelBytes =
      std::max<int64_t>(kL2CacheBytes, sysconf(_SC_LEVEL2_CACHE_SIZE)) / 8 * kPanelEighths;
  return std::max(kMinPanels, kPanelBytes / panel_bytes);
}

Block Partition::operator[](int64_t i) const {
  const int64_t first_query = i / num_ranges * group_queries, range = i % num_ranges;
  const int64_t begin = range * range_rows;
  return {first_query, std::min(group_queries, num_queries - first_query), range, begin,
          std::min(begin + range_rows, num_items)};
}

void prefetch_part(const Catalog& catalog, int64_t first, int64_t p, int64_t n) {
  // A narrow tile is multiplied once, sooner than the next one is read. The processor's own
  // prefetching reads it faster than many instructions at once.
  const bool is_narrow = catalog.tile.lanes == catalog.tile.vector_lanes;
  if (n == 1 && is_narrow && catalog.loads_in_place) return;
  const Embeddings& items = catalog.items;
  const int64_t rows = std::min(catalog.tile.rows, items.rows - first);
  for (int64_t r = rows * p / n; r < rows * (p + 1) / n; ++r) prefetch_row(items, first + r);
}

namespace {

// The scores of targets by kFloat, pair by pair: that has the bits of a tile.
void score_float_targets(const Catalog& catalog, const Embeddings& queries, const int64_t* targets,
                         float* scores) {
  constexpr int64_t kPairs = 16;
  const Embeddings& items = catalog.items;
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    const int64_t padded = queries.padded_dim();
    const bool copies_rows = queries.storage != kFloat32 || items.storage != kFloat32;
    std::vector<float> copies(copies_rows ? 2 * std::min(kPairs, end - begin) * padded : 0);
    const auto values = [&](const Embeddings& from, int64_t row, float* copy) {
      if (from.storage == kFloat32) return reinterpret_cast<const float*>(from.row(row));
      from.copy_row(row, copy);
      return static_cast<const float*>(copy);
    };
    for (int64_t first = begin; first < end; first += kPairs) {
      const float *query[kPairs], *item[kPairs];
      float found[kPairs];
      int64_t numbers[kPairs], n = 0;
      for (int64_t q = first; q < std::min(first + kPairs, end); ++q) {
        if (targets[q] < 0) continue;
        query[n] = values(queries, q, copies.data() + 2 * n * padded);
        item[n] = values(items, targets[q], copies.data() + (2 * n + 1) * padded);
        numbers[n++] = q;
      }
      if (n == 0) continue;
      level().sequential_dots(query, item, n, items.dim, found);
      for (int64_t i = 0; i < n; ++i)
        scores[numbers[i]] =
            is_finite(found[i]) ? found[i] : float64_score(query[i], item[i], items.dim);
    }
  });
}

}  // namespace

std::vector<float> score_targets(const Catalog& catalog, const Embeddings& queries,
                                 const int64_t* targets, const int64_t* offsets) {
  const auto first_of = [&](int64_t q) { return offsets ? offsets[q] : q; };
  std::vector<float> result(first_of(queries.rows), -std::numeric_limits<float>::infinity());
  if (catalog.items.rows == 0) return result;  // no row to score for targets of -1
  if (!offsets && catalog.arithmetic == kFloat && catalog.query_storage == queries.storage &&
      catalog.items.storage != kInt8) {
    score_float_targets(catalog, queries, targets, result.data());
    return result;
  }
  const int64_t lanes = catalog.tile.lanes, rows = catalog.tile.rows;
  const auto score_panels = [&](int64_t begin, int64_t end) {
    const TileSession session;
    Panels panels(catalog, queries);
    ItemTile tile(catalog);
    float scores[kMaxTileScores];
    const std::vector<float> zeros(lanes, 0.0f);
    std::vector<int64_t> lane_of;  // the panel's targets
    for (int64_t p = begin; p < end; ++p) {
      const int64_t last = std::min((p + 1) * lanes, queries.rows), first = first_of(p * lanes);
      panels.pack(p * lanes, last);
      lane_of.clear();
      for (int64_t q = p * lanes; q < last; ++q)
        lane_of.insert(lane_of.end(), first_of(q + 1) - first_of(q), q - p * lanes);
      const int64_t num_targets = static_cast<int64_t>(lane_of.size());
      for (int64_t i = 0; i < num_targets; i += rows) {
        int64_t ids[kMaxTileRows];
        const int64_t n = std::min(rows, num_targets - i);
        for (int64_t r = 0; r < n; ++r) ids[r] = std::max<int64_t>(targets[first + i + r], 0);
        tile.load_ids(ids, n);
        const auto own_score = [&](int64_t r) { return scores[r * lanes + lane_of[i + r]]; };
        tile.score(panels, 0, scores);
        bool any_tiny = false;
        for (int64_t r = 0; r < n; ++r) any_tiny = any_tiny || is_tiny(own_score(r));
        if (any_tiny) tile.score(panels, 0, scores, zeros.data());
        for (int64_t r = 0; r < n; ++r)
          if (targets[first + i + r] >= 0) result[first + i + r] = own_score(r);
      }
    }
  };
  parallel_for(0, divide_up(queries.rows, lanes), 1, score_panels);
  return result;
}

}  // namespace rl4rec
