#include "cpu/strips.h"

#include <algorithm>
#include <cmath>

namespace rl4rec {

Strips::Strips(const Refinement& refinement, const Block& block)
    : refinement_(refinement), block_(block) {
  ways_.reserve(refinement.approximations().size() + 1);
  for (const Approximation& approximation : refinement.approximations()) {
    if (!refinement.is_bounded(block) || !approximation.is_bounded(block)) continue;
    ways_.emplace_back();
    ways_.back().approximation = &approximation;
    ways_.back().catalog = &approximation.catalog;
  }
  ways_.emplace_back();
  ways_.back().approximation = nullptr;
  ways_.back().catalog = &refinement.exact();
  for (Way& way : ways_) way.fixed = fixed_cost(*way.catalog);
}

float Strips::fixed_cost(const Catalog& catalog) const {
  const auto num_queries = static_cast<float>(block_.num_queries);
  const float reading = kReadingCost * static_cast<float>(catalog.items.value_bytes) / 4;
  if (catalog.arithmetic == kFew) return reading / num_queries + kFewCost;
  const int64_t lanes = catalog.tile.lanes;
  const int64_t padded = (block_.num_queries + lanes - 1) / lanes * lanes;
  const float multiplying = catalog.tile.cost * static_cast<float>(padded) / num_queries;
  const float rounding = catalog.arithmetic == kBFloat16Pairs ? 1.5f : 2.5f;
  return multiplying + (catalog.rounds ? rounding : reading) / num_queries;
}

const Strip& Strips::load(int64_t begin, int64_t end) {
  const auto by_cost = [](const Way& a, const Way& b) { return a.cost() < b.cost(); };
  size_t chosen = std::min_element(ways_.begin(), ways_.end(), by_cost) - ways_.begin();
  for (;; chosen = ways_.size() - 1) {
    Way& way = ways_[chosen];
    if (!way.panels) {
      way.panels.emplace(*way.catalog, refinement_.queries());
      way.panels->pack(block_.first_query, block_.first_query + block_.num_queries);
    }
    strip_ = {chosen, way.approximation, way.catalog, &*way.panels, nullptr, 0, {}};
    load_tiles(way, begin, end);
    if (!way.approximation || std::isfinite(strip_.norms.norm)) return strip_;
  }
}

void Strips::load_tiles(Way& way, int64_t begin, int64_t end) {
  const int64_t rows = way.catalog->tile.rows, needed = (end - begin + rows - 1) / rows;
  way.tiles.reserve(needed);
  while (static_cast<int64_t>(way.tiles.size()) < needed) way.tiles.emplace_back(*way.catalog);
  strip_.tiles = way.tiles.data();
  while (begin < end) {
    ItemTile& tile = way.tiles[strip_.num_tiles];
    begin = tile.load(begin, end);
    if (tile.size() == 0) return;
    ++strip_.num_tiles;
    if (way.catalog->arithmetic == kFew) tile.score_few(*way.panels);
    const RowNorms& norms = tile.norms();
    strip_.norms.norm = std::max(strip_.norms.norm, norms.norm);
    strip_.norms.error = std::max(strip_.norms.error, norms.error);
    strip_.norms.rest = std::max(strip_.norms.rest, norms.rest);
  }
}

void Strips::learn(int64_t num_pairs, const Rescored& rescored) {
  constexpr float kFade = 0.98f;  // so that a way which was not taken for long is tried again
  for (Way& way : ways_) way.rescored *= kFade;
  const float row = reads_source() ? 0.0f : kSingleReadingCost;
  ways_[strip_.way].rescored =
      (static_cast<float>(rescored.pairs) + row * static_cast<float>(rescored.items)) /
      static_cast<float>(num_pairs);
}

}  // namespace rl4rec
