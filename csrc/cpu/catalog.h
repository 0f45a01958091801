// What the catalog operators share: their items, panels of queries, tiles of items, and how a call
// is divided among threads.
#pragma once

#include <cstdlib>
#include <memory>

#include "cpu/embeddings.h"
#include "cpu/parallel.h"

namespace rl4rec {

// Words that begin at a cache line.
struct Free {
  void operator()(uint32_t* words) const { std::free(words); }
};
using AlignedWords = std::unique_ptr<uint32_t[], Free>;
AlignedWords make_words(int64_t count);  // zeros

// The items of a call, and the arithmetic of their scores.
struct Catalog {
  // `row_stats` [N, 3] float32 holds scale, norm and error of every row of a quantized table (see
  // rl4rec_kernels/ops/quantize.py), `valid` bool [N] says which rows may compete. Default: all.
  Catalog(const Tensor& table, const OptionalTensor& row_stats, const OptionalTensor& valid,
          const Embeddings& queries)
      : Catalog(table, row_stats, valid, queries, std::nullopt) {}
  // The items of `source` in an arithmetic that approximates its own: kBFloat16Pairs and those in
  // two parts round them when they are loaded, kFloat16Pairs and kFew take them as they are. So
  // `source` may be quantized for kFew; queries are taken as they are too, or as int16 if items are
  // int8. kFloat16Pairs is for float16 only.
  Catalog(const Catalog& source, Arithmetic approximation, const Embeddings& queries)
      : Catalog(source.items.owner, source.row_stats_owner_, source.valid_owner_, queries,
                approximation) {}

  bool is_valid(int64_t id) const { return !valid || valid[id]; }
  float scale(int64_t id) const { return row_stats ? row_stats[3 * id] : 1.0f; }
  float norm(int64_t id) const { return row_stats[3 * id + 1]; }
  float error(int64_t id) const { return row_stats[3 * id + 2]; }
  // Writes a row as an approximation scores it, in `words` words, which its parts share equally.
  // Sets its norms and, if its parts are int8, its scale.
  void round_row(const Embeddings& rows, int64_t i, uint32_t* to, float* scale,
                 RowNorms* norms) const;

  Embeddings items;
  const float* row_stats = nullptr;
  const bool* valid = nullptr;
  Storage query_storage;  // what queries are rounded to before they are scored
  Arithmetic arithmetic;
  bool rounds;          // items, when they are loaded, or finds their norms
  bool settles = true;  // scores, see settle.h; those of an approximation need not be
  TileKernels tile;
  int64_t words;        // of an item
  bool loads_in_place;  // whole tiles of rows, which need no copy

 private:
  Catalog(const Tensor& table, const OptionalTensor& row_stats, const OptionalTensor& valid,
          const Embeddings& queries, std::optional<Arithmetic> approximation);

  OptionalTensor row_stats_owner_, valid_owner_;
};

// A query as it is scored: rounded to the catalog's query_storage. If that is int8, the query is
// about `rounded` times the scale, which is returned.
float round_query(const Catalog& catalog, const float* query, int64_t dim, float* rounded);

// Rows of queries, rounded and packed into panels.
class Panels {
 public:
  Panels(const Catalog& catalog, const Embeddings& queries);

  void pack(int64_t begin, int64_t end);
  int64_t size() const { return (end_ - begin_ + catalog_.tile.lanes - 1) / catalog_.tile.lanes; }
  const uint32_t* panel(int64_t p) const { return words_.get() + p * panel_words(); }
  Int8Scales scales(int64_t p, const float* item_scales) const {
    const int64_t first = p * catalog_.tile.lanes;
    return {&offsets_[first], &scales_[first], item_scales};
  }
  // How many queries panel p has.
  int64_t num_queries(int64_t p) const {
    return std::min(catalog_.tile.lanes, end_ - begin_ - p * catalog_.tile.lanes);
  }
  // Writes the query of a lane, rounded, to `row`, which is padded. Returns its scale.
  float copy_query(int64_t p, int64_t lane, float* row) const;
  // Of the queries of a panel: whether one has subnormal or large values; their scales.
  const Extremes& extremes(int64_t p, int64_t lane) const {
    return extremes_[p * catalog_.tile.lanes + lane];
  }
  bool has_unusual(int64_t p) const { return has_unusual_[p]; }
  const Extremes& scale_range(int64_t p) const { return scale_ranges_[p]; }

 private:
  int64_t panel_words() const { return catalog_.words * catalog_.tile.lanes; }
  void pack_panel(int64_t p);
  void pack_query(int64_t i, uint32_t* words);

  const Catalog& catalog_;
  const Embeddings& queries_;
  int64_t begin_ = 0, end_ = 0;
  AlignedWords words_;
  AlignedWords rows_;  // before they are transposed
  std::unique_ptr<float[]> row_;
  std::vector<int32_t> offsets_;
  std::vector<float> scales_;
  std::vector<Extremes> extremes_, scale_ranges_;
  std::vector<char> has_unusual_;
};

// A few items, one after the other, and their scores against a panel.
class ItemTile {
 public:
  explicit ItemTile(const Catalog& catalog);

  // Loads the next valid rows of [first, end). Returns the first row that is left.
  int64_t load(int64_t first, int64_t end);
  void load_ids(const int64_t* ids, int64_t n);
  // Scores the loaded items, and finds their norm, if the arithmetic is kFew.
  void score_few(const Panels& panels);

  // scores[r * lanes + l] of the tile's items against the panel's queries. `compared` are what the
  // scores of every lane are compared with, or null if none of these is tiny: then tiny scores may
  // differ by what is flushed, see settle.h.
  void score(const Panels& panels, int64_t p, float* scores,
             const float* compared = nullptr) const {
    multiply(panels, p, scores);
    if (catalog_.settles) settle(panels, p, compared, scores);
  }
  // The two halves of it. If is_settled(...), there is nothing to settle unless a score is not
  // finite.
  void multiply(const Panels& panels, int64_t p, float* scores) const;
  // As multiply, and meanwhile counts other scores, of a whole tile: see TileKernels.
  bool multiply_and_count(const Panels& panels, int64_t p, float* scores,
                          const Uncounted& others) const;
  int64_t multiply_and_collect(const Panels& panels, int64_t p, float* scores,
                               const Uncollected& others) const;
  int64_t multiply_and_add(const Panels& panels, int64_t p, float* scores,
                           const Unsummed& others) const;
  bool is_settled(const Panels& panels, int64_t p, const float* compared) const {
    if (catalog_.arithmetic == kBFloat16Pairs) return !compared && !panels.has_unusual(p);
    if (catalog_.items.storage != kInt8) return true;
    const Extremes& queries = panels.scale_range(p);
    return is_normal(queries.least * scale_range_.least) &&
           is_normal(queries.most * scale_range_.most);
  }
  void settle(const Panels& panels, int64_t p, const float* compared, float* scores) const;

  // The rows, `stride()` bytes apart, as they are multiplied.
  const void* data() const { return data_; }
  int64_t stride() const { return data_stride_; }

  int64_t size() const { return size_; }
  const int64_t* ids() const { return ids_; }  // ascending after `load`
  // The row of the tile that has the item, or -1.
  int64_t find(int64_t id) const;

  // The largest norms of the items, if they have row_stats or are rounded here. Infinite if an item
  // is not finite, or huge.
  const RowNorms& norms() const { return norms_; }
  float norm() const { return norms_.norm; }

 private:
  void add(int64_t id);
  void make_room();
  bool load_in_place(int64_t first, int64_t end);
  void include(const RowNorms& norms);
  void include_stats(int64_t id);

  const Catalog& catalog_;
  int64_t stride_, size_ = 0;  // stride in bytes
  AlignedWords words_;
  const void* data_;  // the first item: in words_, or in the table
  int64_t data_stride_;
  RowNorms norms_{};
  Extremes scale_range_;
  int64_t ids_[kMaxTileRows];
  float scales_[kMaxTileRows];
  float few_scores_[kFewRows * kMaxFewQueries];
};

inline void prefetch_row(const Embeddings& items, int64_t i) {
  for (int64_t byte = 0; byte < items.dim * items.value_bytes; byte += 64)
    __builtin_prefetch(static_cast<const char*>(items.row(i)) + byte, 0, 2);
}

// Prefetches part p of n of the rows that the next tile loads from `first` on.
void prefetch_part(const Catalog& catalog, int64_t first, int64_t p, int64_t n);

// What a thread does at once: num_queries queries against the items [begin, end), the range-th
// range of all items.
struct Block {
  int64_t first_query, num_queries, range, begin, end;
};

// Divides a call into blocks of about equal work.
struct Partition {
  // At most `max_panels` panels per block. The threads share the items.
  static Partition by_items(const Catalog& catalog, int64_t num_queries, int64_t max_panels);
  // The same, but the threads share the queries unless there are too few.
  static Partition by_queries(const Catalog& catalog, int64_t num_queries, int64_t max_panels);
  // How many panels are best scored against a tile of items, one after the other.
  static int64_t panels_at_once(const Catalog& catalog);

  int64_t size() const { return num_groups * num_ranges; }
  Block operator[](int64_t i) const;

  int64_t num_queries, num_items;
  int64_t group_queries, num_groups;  // of the queries
  int64_t range_rows, num_ranges;     // of the items
};

// Calls fn(block) for every block, from several threads.
template <typename Fn>
void for_each_block(const Partition& partition, const Fn& fn) {
  parallel_for(0, partition.size(), 1, [&](int64_t begin, int64_t end) {
    const TileSession session;
    for (int64_t i = begin; i < end; ++i) fn(partition[i]);
  });
}

// Calls fn(block, panels) for every block, from several threads. `panels` holds the block's
// queries. Every thread packs its own: panels that the cores share are slower to read.
template <typename Fn>
void for_each_block(const Catalog& catalog, const Embeddings& queries, const Partition& partition,
                    const Fn& fn) {
  parallel_for(0, partition.size(), 1, [&](int64_t begin, int64_t end) {
    const TileSession session;
    Panels panels(catalog, queries);
    int64_t packed = -1;
    for (int64_t i = begin; i < end; ++i) {
      const Block block = partition[i];
      if (block.first_query != packed)
        panels.pack(block.first_query, block.first_query + block.num_queries);
      packed = block.first_query;
      fn(block, panels);
    }
  });
}

// The score of every query's target, by the arithmetic of its competitors' scores. A target of -1
// scores -inf. With `offsets` [B + 1], query q has the targets offsets[q] ... offsets[q + 1] - 1.
std::vector<float> score_targets(const Catalog& catalog, const Embeddings& queries,
                                 const int64_t* targets, const int64_t* offsets = nullptr);

}  // namespace rl4rec
