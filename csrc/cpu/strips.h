// How strips of items are scored: by the approximation that takes the least time, or exactly.
#pragma once

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

  // Reports how many of the strip's pairs had to be rescored.
  void learn(int64_t num_pairs, int64_t num_rescored);

  // Calls fn(tile, p) for every tile and panel of the strip: a few panels at a time, which stay in
  // the cache.
  template <typename Fn>
  void for_each_tile(const Fn& fn) const {
    const int64_t panels = strip_.panels->size();
    const int64_t at_once = Partition::panels_at_once(*strip_.catalog);
    for (int64_t first = 0; first < panels; first += at_once)
      for (int64_t t = 0; t < strip_.num_tiles; ++t)
        for (int64_t p = first; p < std::min(first + at_once, panels); ++p) fn(strip_.tiles[t], p);
  }

 private:
  // A way to score. Its cost per multiplication is that of the kernel, of rounding items, which all
  // queries of the block share, and of rescoring, in units of dot_rows.
  struct Way {
    const Approximation* approximation;
    const Catalog* catalog;
    float rounding = 0.0f;
    float rescored = 0.0f;  // share of pairs, as seen lately
    std::optional<Panels> panels;
    std::vector<ItemTile> tiles;

    float cost() const { return catalog->tile.cost + rounding + rescored; }
  };

  void load_tiles(Way& way, int64_t begin, int64_t end);

  const Refinement& refinement_;
  const Block block_;
  std::vector<Way> ways_;  // the last one is exact
  Strip strip_;
};

}  // namespace rl4rec
