// How strips of items are scored: by the approximation that takes the least time, or exactly.
#pragma once

#include "cpu/cost.h"
#include "cpu/refine.h"
#include "cpu/tuning.h"

namespace rl4rec {

// Some rows of the table, loaded to be scored in one way.
struct Strip {
  size_t way;
  const Approximation* approximation;  // null if scores are exact
  const Catalog* catalog;
  const Panels* panels;
  const ItemTile* tiles;
  int64_t num_tiles;
  RowNorms norms;  // the largest ones
};

// Loads strips for the queries of a block.
class Strips {
 public:
  Strips(const Refinement& refinement, const Block& block);

  // Loads the valid items of [begin, end), to be scored in the way that has taken the least time
  // lately; exactly, if a query or an item has no bound.
  const Strip& load(int64_t begin, int64_t end);

  // Whether the strip was read from the table whose rows are rescored.
  bool reads_source() const { return reads_source(*strip_.catalog); }
  // Reports how many rows the strip has, and which of its pairs had to be rescored.
  void learn(int64_t num_rows, const Rescored& rescored);

  // Whether exact scores have taken the least time lately.
  bool prefers_exact() const { return cheapest() == ways_.size() - 1; }
  // How many rows are best scored next, in one way: few if it was not the last one.
  int64_t next_rows() const {
    if (prefers_exact()) return kExactRows;
    return cheapest() == strip_.way ? kStripRows : kTriedRows;
  }
  // Reports rows that were scored without a strip. What was learned fades, so that a way which was
  // not taken for long is tried again.
  void forget(int64_t num_rows);

  // Calls fn(tile, p) for every tile and panel of the strip: a few panels at a time, which stay in
  // the cache.
  template <typename Fn>
  void for_each_tile(const Fn& fn) const {
    const int64_t panels = strip_.panels->size();
    const int64_t at_once = Partition::panels_at_once(*strip_.catalog);
    const bool prefetches = strip_.catalog->loads_in_place && strip_.catalog->arithmetic != kFew;
    for (int64_t first = 0; first < panels; first += at_once)
      for (int64_t t = 0; t < strip_.num_tiles; ++t) {
        const ItemTile& tile = strip_.tiles[t];
        const int64_t last = std::min(first + at_once, panels);
        for (int64_t p = first; p < last; ++p) {
          if (prefetches && first == 0)
            prefetch_part(*strip_.catalog, tile.ids()[tile.size() - 1] + 1, p, last);
          fn(tile, p);
        }
      }
  }

 private:
  // A way to score, and its costs per pair.
  struct Way {
    const Approximation* approximation;
    const Catalog* catalog;
    float fixed = 0.0f;     // see scoring_cost
    float rescored = 0.0f;  // as expected, then as seen lately
    std::optional<Panels> panels;
    std::vector<ItemTile> tiles;

    float cost() const { return fixed + rescored; }
  };

  bool reads_source(const Catalog& catalog) const {
    return catalog.items.data == refinement_.exact().items.data;
  }
  size_t cheapest() const;  // of the ways
  void load_tiles(Way& way, int64_t begin, int64_t end);

  const Refinement& refinement_;
  const Block block_;
  std::vector<Way> ways_;  // the last one is exact
  Strip strip_;
};

}  // namespace rl4rec
