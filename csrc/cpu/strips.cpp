#include "cpu/strips.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rl4rec {

Strips::Strips(const Refinement& refinement, const Block& block)
    : refinement_(refinement), block_(block) {
  ways_.reserve(refinement.approximations().size() + 1);
  for (const Approximation& approximation : refinement.approximations()) {
    if (!refinement.is_bounded(block) || !approximation.is_bounded(block)) continue;
    ways_.emplace_back();
    ways_.back().approximation = &approximation;
    ways_.back().catalog = &approximation.catalog;
    ways_.back().rescored = approximation.expected;
  }
  ways_.emplace_back();
  ways_.back().approximation = nullptr;
  ways_.back().catalog = &refinement.exact();
  for (Way& way : ways_) way.fixed = scoring_cost(*way.catalog, block.num_queries);
  strip_.way = ways_.size();  // none so far
}

size_t Strips::cheapest() const {
  // Of the cost of the last way, so that ways of about the same cost do not alternate.
  constexpr float kStay = 0.9f;
  size_t best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (size_t way = 0; way < ways_.size(); ++way) {
    const float cost = ways_[way].cost() * (way == strip_.way ? kStay : 1.0f);
    if (cost >= least) continue;
    least = cost;
    best = way;
  }
  return best;
}

const Strip& Strips::load(int64_t begin, int64_t end) {
  for (size_t chosen = cheapest();; chosen = ways_.size() - 1) {
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

void Strips::learn(int64_t num_rows, const Rescored& rescored) {
  forget(num_rows);
  const bool reads_rows = !reads_source() && !is_cached(refinement_.exact().items);
  const float row = reads_rows ? kSingleReadingCost : 0.0f;
  ways_[strip_.way].rescored = (kRescoringCost * static_cast<float>(rescored.pairs) +
                                row * static_cast<float>(rescored.items)) /
                               static_cast<float>(num_rows * block_.num_queries);
}

void Strips::forget(int64_t num_rows) {
  constexpr float kFade = 0.98f;  // per kStripRows
  const float fade = std::pow(kFade, static_cast<float>(num_rows) / kStripRows);
  for (Way& way : ways_) way.rescored *= fade;
}

}  // namespace rl4rec
