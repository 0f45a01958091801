#include "cpu/catalog.h"

#include <torch/headeronly/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/candidates.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

const TileKernels& tile_for(const Level& level, int64_t num_queries) {
  return num_queries <= level.narrow.lanes ? level.narrow : level.wide;
}

Arithmetic arithmetic_for(Storage items, Storage query, const TileKernels& tile) {
  if (items == kBFloat16 && query == kBFloat16 && tile.score_bfloat16) return Arithmetic::kBFloat16;
  if (items == kInt8 && tile.score_int8) return Arithmetic::kInt8;
  return Arithmetic::kFloat;
}

int64_t divide_up(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

int64_t words_of(Arithmetic arithmetic, int64_t dim) {
  switch (arithmetic) {
    case Arithmetic::kBFloat16: return divide_up(dim, 2);
    case Arithmetic::kInt8: return divide_up(dim, 4);
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
  result.group_queries = divide_up(count_panels(catalog, num_queries), groups) * catalog.tile.lanes;
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

Catalog::Catalog(const Tensor& table, const OptionalTensor& row_stats, const OptionalTensor& valid,
                 const Embeddings& queries)
    : items(table, "table", row_stats.has_value()),
      query_storage(row_stats && items.storage != kFloat32 ? items.storage : queries.storage),
      tile(tile_for(level(), queries.rows)) {
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
  arithmetic = arithmetic_for(items.storage, query_storage, tile);
  words = words_of(arithmetic, items.dim);
}

float round_query(const Catalog& catalog, const float* query, int64_t dim, float* rounded) {
  if (catalog.query_storage == kBFloat16) {
    for (int64_t j = 0; j < dim; ++j) rounded[j] = torch::headeronly::BFloat16(query[j]);
    return 1.0f;
  }
  if (catalog.query_storage != kInt8) {
    if (rounded != query) std::copy(query, query + dim, rounded);
    return 1.0f;
  }
  float largest = 0.0f;
  bool finite = true;
  for (int64_t j = 0; j < dim; ++j) {
    largest = std::max(largest, std::fabs(query[j]));
    finite = finite && std::isfinite(query[j]);
  }
  if (!finite) {  // int8 has no NaN; a scale of NaN makes every score NaN
    std::fill(rounded, rounded + dim, 0.0f);
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float scale = largest / 127.0f > 0.0f ? largest / 127.0f : 1.0f;
  for (int64_t j = 0; j < dim; ++j)
    rounded[j] = std::clamp(std::nearbyint(query[j] / scale), -127.0f, 127.0f);
  return scale;
}

Panels::Panels(const Catalog& catalog, const Embeddings& queries)
    : catalog_(catalog), queries_(queries), row_(queries.padded_dim()) {}

void Panels::pack(int64_t begin, int64_t end) {
  begin_ = begin;
  end_ = end;
  words_.assign(size() * panel_words(), 0);  // lanes after the last query stay 0
  offsets_.assign(size() * catalog_.tile.lanes, 0);
  scales_.assign(size() * catalog_.tile.lanes, 1.0f);
  for (int64_t i = 0; i < end - begin; ++i) pack_query(i);
}

void Panels::pack_query(int64_t i) {
  const int64_t lanes = catalog_.tile.lanes, dim = queries_.dim;
  queries_.copy_row(begin_ + i, row_.data());
  scales_[i] = round_query(catalog_, row_.data(), dim, row_.data());
  uint32_t* lane = words_.data() + i / lanes * panel_words() + i % lanes;
  if (catalog_.arithmetic == Arithmetic::kFloat) {
    for (int64_t j = 0; j < dim; ++j) std::memcpy(lane + j * lanes, &row_[j], sizeof(float));
  } else if (catalog_.arithmetic == Arithmetic::kBFloat16) {
    for (int64_t j = 0; j < dim; ++j)
      lane[j / 2 * lanes] |= uint32_t{torch::headeronly::BFloat16(row_[j]).x} << (j % 2 * 16);
  } else {
    int32_t sum = 0;
    for (int64_t j = 0; j < dim; ++j) {
      const int32_t value = static_cast<int32_t>(row_[j]);
      sum += value;
      lane[j / 4 * lanes] |= static_cast<uint32_t>(value & 0xff) << (j % 4 * 8);
    }
    offsets_[i] = 128 * sum;  // ItemTile::add adds 128 to every value of an item
  }
}

ItemTile::ItemTile(const Catalog& catalog) : catalog_(catalog) {
  // An odd number of cache lines, so that rows do not share sets of the L1 cache. Rows of floats
  // are written in whole steps.
  const int64_t words = std::max<int64_t>(
      catalog.words, catalog.items.padded_dim() * (catalog.arithmetic == Arithmetic::kFloat));
  stride_ = ((words + 15) / 16 | 1) * 16;
  words_.assign(stride_ * catalog.tile.rows, 0);
}

int64_t ItemTile::load(int64_t first, int64_t end) {
  size_ = 0;
  for (; first < end && size_ < catalog_.tile.rows; ++first)
    if (catalog_.is_valid(first)) add(first);
  return first;
}

void ItemTile::load_ids(const int64_t* ids, int64_t n) {
  size_ = 0;
  for (int64_t i = 0; i < n; ++i) add(ids[i]);
}

void ItemTile::add(int64_t id) {
  uint32_t* to = words_.data() + size_ * stride_;
  const char* from = static_cast<const char*>(catalog_.items.row(id));
  const int64_t dim = catalog_.items.dim;
  if (catalog_.arithmetic == Arithmetic::kFloat) {
    catalog_.items.copy_row(id, reinterpret_cast<float*>(to));
  } else if (catalog_.arithmetic == Arithmetic::kBFloat16) {
    std::copy_n(from, 2 * dim, reinterpret_cast<char*>(to));
  } else {
    // The instruction takes one factor unsigned: flipping the sign bit adds 128.
    std::copy_n(from, dim, reinterpret_cast<char*>(to));
    for (int64_t w = 0; w < catalog_.words; ++w) to[w] ^= 0x80808080;
  }
  ids_[size_] = id;
  scales_[size_++] = catalog_.scale(id);
}

void ItemTile::score(const Panels& panels, int64_t p, float* scores) {
  const TileKernels& tile = catalog_.tile;
  const uint32_t* panel = panels.panel(p);
  if (catalog_.arithmetic == Arithmetic::kBFloat16)
    return tile.score_bfloat16(panel, words_.data(), stride_, catalog_.words, scores);
  if (catalog_.arithmetic == Arithmetic::kInt8)
    return tile.score_int8(panel, words_.data(), stride_, catalog_.words, panels.offsets(p),
                           panels.scales(p), scales_, scores);
  tile.score_float(reinterpret_cast<const float*>(panel),
                   reinterpret_cast<const float*>(words_.data()), stride_, catalog_.words, scores);
  if (catalog_.items.storage != kInt8) return;
  for (int64_t r = 0; r < size_; ++r)
    for (int64_t l = 0; l < tile.lanes; ++l)
      scores[r * tile.lanes + l] *= panels.scales(p)[l] * scales_[r];
}

int64_t ItemTile::find(int64_t id) const {
  const int64_t* at = std::lower_bound(ids_, ids_ + size_, id);
  return at < ids_ + size_ && *at == id ? at - ids_ : -1;
}

Exclusions::Exclusions(const Catalog& catalog, int64_t num_queries, const int64_t* targets,
                       const OptionalTensor& ids, const OptionalTensor& offsets)
    : lanes_(catalog.tile.lanes), entries_(divide_up(num_queries, lanes_)), counts_(num_queries) {
  std::optional<Candidates> excluded;
  if (ids) excluded.emplace(*ids, offsets, num_queries, "exclude");
  std::optional<IdCheck> id_check;
  if (excluded) id_check.emplace(*excluded, catalog.items.rows, /*needs_target=*/false);
  const int64_t num_panels = static_cast<int64_t>(entries_.size());
  parallel_for(0, num_panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      std::vector<Entry>& entries = entries_[p];
      for (int64_t q = p * lanes_; q < std::min((p + 1) * lanes_, num_queries); ++q) {
        if (targets && targets[q] >= 0) entries.push_back({targets[q], q % lanes_});
        if (!excluded) continue;
        for (int64_t i = excluded->begin(q); i < excluded->end(q); ++i) {
          const int64_t id = excluded->id(q, i);
          if (id_check->is_item(q, i, id)) entries.push_back({id, q % lanes_});
        }
      }
      std::sort(entries.begin(), entries.end());
      entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
      for (const Entry& entry : entries)
        counts_[p * lanes_ + entry.lane] += catalog.is_valid(entry.id);
    }
  });
  if (id_check) id_check->raise();
}

std::vector<const Exclusions::Entry*> Exclusions::seek(int64_t first_panel, int64_t n,
                                                       int64_t id) const {
  std::vector<const Entry*> result(n);
  for (int64_t p = 0; p < n; ++p) {
    const auto& entries = entries_[first_panel + p];
    result[p] = entries.data() +
                (std::lower_bound(entries.begin(), entries.end(), Entry{id, -1}) - entries.begin());
  }
  return result;
}

void Exclusions::apply(const Entry*& entry, int64_t p, const ItemTile& tile, float replacement,
                       float* scores) const {
  const Entry* const end = entries_[p].data() + entries_[p].size();
  const int64_t last = tile.ids()[tile.size() - 1];
  for (; entry < end && entry->id <= last; ++entry) {
    const int64_t row = tile.find(entry->id);
    if (row >= 0) scores[row * lanes_ + entry->lane] = replacement;
  }
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
  return std::max(kMinPanels, kPanelBytes / panel_bytes);
}

Block Partition::operator[](int64_t i) const {
  const int64_t first_query = i / num_ranges * group_queries, range = i % num_ranges;
  const int64_t begin = range * range_rows;
  return {first_query, std::min(group_queries, num_queries - first_query), range, begin,
          std::min(begin + range_rows, num_items)};
}

void prefetch_part(const Catalog& catalog, int64_t first, int64_t p, int64_t n) {
  const Embeddings& items = catalog.items;
  const int64_t rows = std::min(catalog.tile.rows, items.rows - first);
  const int64_t bytes = items.dim * static_cast<int64_t>(items.owner.element_size());
  for (int64_t r = rows * p / n; r < rows * (p + 1) / n; ++r)
    for (int64_t byte = 0; byte < bytes; byte += 64)
      __builtin_prefetch(static_cast<const char*>(items.row(first + r)) + byte, 0, 2);
}

std::vector<float> score_targets(const Catalog& catalog, const Embeddings& queries,
                                 const int64_t* targets) {
  std::vector<float> result(queries.rows, -std::numeric_limits<float>::infinity());
  if (catalog.items.rows == 0) return result;  // no row to score for targets of -1
  const int64_t lanes = catalog.tile.lanes, rows = catalog.tile.rows;
  const auto score_panels = [&](int64_t begin, int64_t end) {
    Panels panels(catalog, queries);
    ItemTile tile(catalog);
    float scores[kMaxTileRows * kMaxLanes];
    for (int64_t p = begin; p < end; ++p) {
      const int64_t last = std::min((p + 1) * lanes, queries.rows);
      panels.pack(p * lanes, last);
      for (int64_t q = p * lanes; q < last; q += rows) {
        int64_t ids[kMaxTileRows];
        const int64_t n = std::min(rows, last - q);
        for (int64_t r = 0; r < n; ++r) ids[r] = std::max<int64_t>(targets[q + r], 0);
        tile.load_ids(ids, n);
        tile.score(panels, 0, scores);
        for (int64_t r = 0; r < n; ++r)
          if (targets[q + r] >= 0) result[q + r] = scores[r * lanes + (q + r) % lanes];
      }
    }
  };
  parallel_for(0, divide_up(queries.rows, lanes), 1, score_panels);
  return result;
}

}  // namespace rl4rec
