// What the catalog operators share: their arguments, panels of queries, tiles of items, and the
// walk of all items past all queries.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "cpu/embeddings.h"
#include "cpu/parallel.h"

namespace rl4rec {

// Which words (see tile.h) queries and items are made of.
enum class Arithmetic { kFloat, kBFloat16, kInt8 };

// The items of a call.
struct Catalog {
  // `row_stats` [N, 3] float32 holds scale, norm and error of every row of a quantized table (see
  // rl4rec_kernels/ops/quantize.py), `valid` bool [N] says which rows may compete; default all.
  Catalog(const Tensor& table, const std::optional<Tensor>& row_stats,
          const std::optional<Tensor>& valid, const Embeddings& queries);

  bool is_valid(int64_t id) const { return !valid || valid[id]; }
  float scale(int64_t id) const { return row_stats ? row_stats[3 * id] : 1.0f; }
  float norm(int64_t id) const { return row_stats[3 * id + 1]; }
  float error(int64_t id) const { return row_stats[3 * id + 2]; }

  Embeddings items;
  const float* row_stats = nullptr;
  const bool* valid = nullptr;
  Storage query_storage;  // what queries are rounded to before they are scored
  Arithmetic arithmetic;
  const Tile& tile;
  int64_t words;  // of an item

 private:
  std::optional<Tensor> row_stats_owner_, valid_owner_;
};

// Rows of queries, rounded and turned into panels.
class Panels {
 public:
  Panels(const Catalog& catalog, const Embeddings& queries);

  void load(int64_t begin, int64_t end);
  int64_t size() const { return (end_ - begin_ + catalog_.tile.lanes - 1) / catalog_.tile.lanes; }
  const uint32_t* panel(int64_t p) const { return words_.data() + p * panel_words(); }
  // Of a lane, over all panels: what an int8 sum is lowered by and multiplied with.
  const int32_t* offsets(int64_t p) const { return offsets_.data() + p * catalog_.tile.lanes; }
  const float* scales(int64_t p) const { return scales_.data() + p * catalog_.tile.lanes; }

 private:
  int64_t panel_words() const { return catalog_.words * catalog_.tile.lanes; }
  void load_query(int64_t i);

  const Catalog& catalog_;
  const Embeddings& queries_;
  int64_t begin_ = 0, end_ = 0;
  std::vector<uint32_t> words_;
  std::vector<int32_t> offsets_;
  std::vector<float> scales_, row_;
};

// A query as it is scored: rounded to the catalog's query_storage, `scale` times int8 there.
// Returns the scale.
float round_query(const Catalog& catalog, const float* query, int64_t dim, float* rounded);

// A few items side by side, and their scores against a panel.
class ItemTile {
 public:
  explicit ItemTile(const Catalog& catalog);

  // Takes the next valid rows from [first, end). Returns where to go on.
  int64_t load(int64_t first, int64_t end);
  void load_ids(const int64_t* ids, int64_t n);

  // scores[r * lanes + l] of the tile's items against the panel's queries.
  void score(const Panels& panels, int64_t p, float* scores);

  int64_t size() const { return size_; }
  const int64_t* ids() const { return ids_; }
  // The place of an item in the tile, or -1.
  int64_t place_of(int64_t id) const;

 private:
  void add(int64_t id);

  const Catalog& catalog_;
  int64_t stride_, size_ = 0;  // stride in words
  std::vector<uint32_t> words_;
  int64_t ids_[kMaxTileRows];
  float scales_[kMaxTileRows];
};

// Items that do not compete, query by query: ragged ids and the targets.
class Exclusions {
 public:
  Exclusions(const Catalog& catalog, int64_t num_queries, const int64_t* targets,
             const std::optional<Tensor>& ids, const std::optional<Tensor>& offsets);

  // How many valid items a query does not compete with, its target included.
  int64_t count(int64_t query) const { return counts_[query]; }

  struct Entry {
    int64_t id, lane;
    bool operator<(const Entry& other) const {
      return id != other.id ? id < other.id : lane < other.lane;
    }
    bool operator==(const Entry& other) const { return id == other.id && lane == other.lane; }
  };
  // For each of n panels from `first_panel` on (counted over all queries), its first entry of an
  // item from `id` on.
  std::vector<const Entry*> from(int64_t first_panel, int64_t n, int64_t id) const;
  // Overwrites the scores of excluded pairs in a tile; moves `entry` behind them.
  void apply(const Entry*& entry, int64_t p, const ItemTile& tile, float instead,
             float* scores) const;

 private:
  int64_t lanes_;
  std::vector<std::vector<Entry>> entries_;  // of every panel, ascending
  std::vector<int64_t> counts_;
};

// How a call is cut into pieces of queries times items, so that all threads have the same to do.
struct Pieces {
  // Blocks of at most `block_panels` panels, of which each meets all items; the threads share the
  // items of a block.
  static Pieces by_items(const Catalog& catalog, int64_t num_queries, int64_t block_panels);
  // The same, but the threads share the blocks, unless there are too few.
  static Pieces by_queries(const Catalog& catalog, int64_t num_queries, int64_t block_panels);
  // How many panels a tile of items had better meet: those that stay in the L2 cache, or a few.
  static int64_t panels_at_once(const Catalog& catalog);

  int64_t count() const { return num_blocks * num_ranges; }
  int64_t block_queries, num_blocks, range_rows, num_ranges;
};

// Calls visit(block, range, panels) for every piece, from several threads. `panels` holds the
// block's queries.
template <typename Visit>
void for_each_piece(const Catalog& catalog, const Embeddings& queries, const Pieces& pieces,
                    const Visit& visit) {
  parallel_for(0, pieces.count(), 1, [&](int64_t begin, int64_t end) {
    Panels panels(catalog, queries);
    int64_t loaded = -1;
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t block = piece / pieces.num_ranges, range = piece % pieces.num_ranges;
      if (block != loaded) {
        const int64_t first = block * pieces.block_queries;
        panels.load(first, std::min(first + pieces.block_queries, queries.rows));
      }
      loaded = block;
      visit(block, range, panels);
    }
  });
}

// Fetches part p of n of the rows that the next tile takes from `first` on.
void prefetch_part(const Catalog& catalog, int64_t first, int64_t p, int64_t n);

// The score of every query's target, by the same arithmetic as its competitors'. A target of -1
// scores -inf.
std::vector<float> score_targets(const Catalog& catalog, const Embeddings& queries,
                                 const int64_t* targets);

}  // namespace rl4rec
