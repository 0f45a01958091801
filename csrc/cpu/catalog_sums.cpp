#include "cpu/catalog_sums.h"

#include <cfloat>

#include "cpu/split_thresholds.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sums are taken over blocks of so many items, or a multiple for large tables, from the first item
// on. Every tile size divides it.
constexpr int64_t kBlockRows = 768;
constexpr int64_t kMaxBlocks = 64;  // what is kept per query does not grow with the table

int64_t block_rows(const Catalog& catalog) {
  const int64_t step = kBlockRows * kMaxBlocks;
  return kBlockRows * std::max<int64_t>(1, (catalog.items.rows + step - 1) / step);
}

struct Partial {
  float reference = -FLT_MAX;
  double sum = 0.0;
};

// A pair and its approximate score.
struct Pair {
  int32_t query, item;
  float score;
};

// One pass over the table: the sums of all blocks and queries, of scores of one kind.
class Pass {
 public:
  // With `thresholds` the scores of `catalog` are split.
  Pass(const SoftmaxCall& call, const Catalog& catalog, const SplitScores& splits,
       const Thresholds* thresholds, Counts* counts)
      : call_(call),
        catalog_(catalog),
        splits_(splits),
        thresholds_(thresholds),
        counts_(counts),
        rows_(block_rows(catalog)),
        num_blocks_((catalog.items.rows + rows_ - 1) / rows_),
        partials_(call.queries.rows * num_blocks_) {
    run();
  }

  // Sets the sums of the queries that are `chosen` or not.
  void add_up(std::vector<LogSum>& sums, const std::vector<char>& is_chosen, bool chosen) const {
    parallel_for(0, call_.queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
      for (int64_t q = begin; q < end; ++q) {
        if (static_cast<bool>(is_chosen[q]) != chosen) continue;
        const double rounding = catalog_.rounds ? splits_.rounding(q) : 0.0;
        for (int64_t b = 0; b < num_blocks_; ++b) {
          const Partial& partial = partials_[q * num_blocks_ + b];
          sums[q].add(partial.reference + rounding, partial.sum);
        }
      }
    });
  }
  // The pairs from `heavy` on: those of one query by item. If a query has more than kMaxHeavy,
  // perhaps not all.
  const std::vector<std::vector<Pair>>& heavy() const { return heavy_; }
  bool has_counted() const { return counts_ && !gave_up_; }

  static constexpr int32_t kMaxHeavy = static_cast<int32_t>(1 / kMinHeavyShare);

 private:
  class Range;

  void run();

  const SoftmaxCall& call_;
  const Catalog& catalog_;
  const SplitScores& splits_;
  const Thresholds* const thresholds_;
  Counts* const counts_;
  std::atomic<bool> gave_up_{false};  // counting
  const int64_t rows_, num_blocks_;
  std::vector<Partial> partials_;         // [B, blocks]
  std::vector<std::vector<Pair>> heavy_;  // by group of queries and range of items
};

// What a thread does: some queries and a range of items.
class Pass::Range {
 public:
  Range(Pass& pass, const Block& range, std::vector<Pair>& heavy)
      : pass_(pass),
        call_(pass.call_),
        range_(range),
        heavy_(heavy),
        num_lanes_((range.num_queries + kMaxLanes - 1) / kMaxLanes * kMaxLanes),
        references_(num_lanes_),
        sums_(num_lanes_),
        targets_(num_lanes_, kInfinity),
        above_(num_lanes_),
        tied_(num_lanes_),
        num_heavy_(num_lanes_) {
    std::copy_n(call_.target_scores.begin() + range.first_query, range.num_queries,
                targets_.begin());
  }

  void run() {
    const Panels* split_panels =
        pass_.catalog_.rounds ? &pack(split_panels_, pass_.catalog_) : nullptr;
    for (int64_t begin = range_.begin; begin < range_.end; begin += pass_.rows_) {
      const int64_t end = std::min(begin + pass_.rows_, range_.end);
      const auto before = std::make_tuple(above_, tied_, num_heavy_, heavy_.size());
      if (!split_panels || !add_block(pass_.catalog_, *split_panels, begin, end)) {
        close_.clear();
        heavy_.resize(std::get<3>(before));
        std::tie(above_, tied_, num_heavy_, std::ignore) = before;
        const Panels& exact = exact_panels_ ? *exact_panels_ : pack(exact_panels_, call_.catalog);
        add_block(call_.catalog, exact, begin, end);
      }
      decide();
      for (int64_t i = 0; i < range_.num_queries; ++i)
        pass_.partials_[(range_.first_query + i) * pass_.num_blocks_ + begin / pass_.rows_] = {
            references_[i], sums_[i]};
    }
    if (!pass_.has_counted()) return;
    for (int64_t i = 0; i < range_.num_queries; ++i)
      pass_.counts_->add(range_.first_query + i, above_[i], tied_[i], 0);
  }

 private:
  const Panels& pack(std::optional<Panels>& panels, const Catalog& catalog) {
    panels.emplace(catalog, call_.queries);
    panels->pack(range_.first_query, range_.first_query + range_.num_queries);
    return *panels;
  }

  // Adds the scores of one panel while those of the next one are computed, if there are kernels
  // that do. Returns false if the items do not allow scores of this kind.
  bool add_block(const Catalog& catalog, const Panels& panels, int64_t begin, int64_t end) {
    std::fill(references_.begin(), references_.end(), -FLT_MAX);
    std::fill(sums_.begin(), sums_.end(), 0.0);
    const int64_t lanes = catalog.tile.lanes, num_panels = panels.size();
    const float* heavy = catalog.rounds ? &pass_.thresholds_->heavy[range_.first_query] : nullptr;
    auto entries = call_.exclusions.seek(range_.first_query, lanes, num_panels, begin);
    ItemTile tile(catalog);
    alignas(64) float buffers[2][kMaxTileScores];
    while ((begin = tile.load(begin, end)), tile.size() > 0) {
      if (catalog.rounds && !pass_.splits_.allows(tile)) return false;
      const bool adds_meanwhile = catalog.tile.score_and_add && tile.size() == catalog.tile.rows;
      for (int64_t p = 0; p < num_panels; ++p) {
        float* scores = buffers[p % 2];
        if (p > 0 && adds_meanwhile) {
          const Unsummed last = unsummed(lanes, p - 1, buffers[(p - 1) % 2], heavy);
          collect_heavy(tile, p - 1, last, tile.multiply_and_add(panels, p, scores, last));
        } else {
          tile.multiply(panels, p, scores);
        }
        if (catalog.settles) tile.settle(panels, p, nullptr, scores);
        if (!catalog.rounds) prefetch_part(catalog, begin, p, num_panels);
        if (pass_.has_counted() && !catalog.rounds) count(tile, p, entries[p], scores);
        call_.exclusions.apply(entries[p], range_.first_query + p * lanes, lanes, tile, -kInfinity,
                               scores);
        if (pass_.has_counted() && catalog.rounds) collect_close(catalog.tile, tile, p, scores);
        if (adds_meanwhile && p + 1 < num_panels) continue;
        const Unsummed own = unsummed(lanes, p, scores, heavy);
        collect_heavy(tile, p, own, add(catalog, tile.size(), own));
      }
    }
    return true;
  }

  // Adds the exponentials of rows of scores. Those of as many rows are summed in float32 for few
  // queries as for many.
  int64_t add(const Catalog& catalog, int64_t num_rows, const Unsummed& scores) {
    const auto& kernels = level().softmax.lanes[__builtin_ctzll(catalog.tile.lanes)];
    return kernels.add_exponentials(scores, num_rows, level().wide[catalog.arithmetic].rows);
  }

  // Of panel p. `heavy` are the limits of the first panel, or null.
  Unsummed unsummed(int64_t lanes, int64_t p, float* scores, const float* heavy) {
    const int64_t first = p * lanes;
    return {scores,
            call_.scale(),
            &references_[first],
            &sums_[first],
            heavy ? heavy + first : nullptr,
            positions_};
  }

  // Counts exact scores.
  void count(const ItemTile& items, int64_t p, const Exclusions::Entry* entry,
             const float* scores) {
    const TileKernels& tile = call_.catalog.tile;
    const int64_t lanes = tile.lanes;
    const float* target = &targets_[p * lanes];
    int32_t *above = &above_[p * lanes], *tied = &tied_[p * lanes];
    float compared[kMaxTileScores];
    if (std::any_of(target, target + exact_panels_->num_queries(p), is_tiny)) {
      items.score(*exact_panels_, p, compared, target);
      scores = compared;
    }
    tile.count(scores, items.size(), target, /*only_finite=*/false, above, tied);
    call_.exclusions.for_each(entry, range_.first_query + p * lanes, lanes, items,
                              [&](int64_t row, int64_t lane) {
                                const float score = scores[row * lanes + lane];
                                above[lane] -= score > target[lane];
                                tied[lane] -= score == target[lane];
                              });
  }

  // Of the scores of panel p.
  void collect_heavy(const ItemTile& items, int64_t p, const Unsummed& scores, int64_t n) {
    const int64_t lanes = pass_.catalog_.tile.lanes;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t query = p * lanes + positions_[i] % lanes;
      if (num_heavy_[query]++ <= kMaxHeavy)
        heavy_.push_back({static_cast<int32_t>(range_.first_query + query),
                          static_cast<int32_t>(items.ids()[positions_[i] / lanes]),
                          scores.scores[positions_[i]]});
    }
  }

  // Counts split scores above the target's, and collects those that may be either.
  void collect_close(const TileKernels& tile, const ItemTile& items, int64_t p,
                     const float* scores) {
    const int64_t first = p * tile.lanes, query = range_.first_query + first;
    const int64_t n = tile.count_and_collect(scores, items.size(), &pass_.thresholds_->low[query],
                                             &pass_.thresholds_->high[query],
                                             /*only_finite=*/false, &above_[first], positions_);
    for (int64_t i = 0; i < n; ++i)
      close_.push_back({static_cast<int32_t>(query + positions_[i] % tile.lanes),
                        static_cast<int32_t>(items.ids()[positions_[i] / tile.lanes]), 0.0f});
    num_pairs_ += items.size() * tile.lanes;
    num_close_ += n;
    if (close_.size() < kMaxClose) return;
    if (num_close_ > num_pairs_ / 16) pass_.gave_up_ = true;
    decide();
  }

  // Counts the close pairs by their exact scores.
  void decide() {
    ExactPairs exact(call_.queries, call_.catalog.items,
                     [&](int64_t query, int64_t, float, float score) {
                       const int64_t i = query - range_.first_query;
                       above_[i] += score > targets_[i];
                       tied_[i] += score == targets_[i];
                     });
    for (const Pair& pair : close_) exact.add(pair.query, pair.item, 0.0f);
    exact.flush();
    close_.clear();
  }

  static constexpr size_t kMaxClose = 1 << 15;

  Pass& pass_;
  const SoftmaxCall& call_;
  const Block& range_;
  std::vector<Pair>& heavy_;
  const int64_t num_lanes_;
  std::vector<float> references_;
  std::vector<double> sums_;
  std::vector<float> targets_;
  std::vector<int32_t> above_, tied_, num_heavy_;
  std::vector<Pair> close_;
  int64_t num_pairs_ = 0, num_close_ = 0;
  uint32_t positions_[kMaxPositions];
  std::optional<Panels> split_panels_, exact_panels_;
};

void Pass::run() {
  // Rounding items takes so long that it pays to do it once, for more queries than usual.
  const int64_t max_panels = Partition::panels_at_once(catalog_) * (catalog_.rounds ? 2 : 1);
  Partition ranges = Partition::by_items(catalog_, call_.queries.rows, max_panels);
  ranges.range_rows = (ranges.range_rows + rows_ - 1) / rows_ * rows_;
  ranges.num_ranges = (catalog_.items.rows + ranges.range_rows - 1) / ranges.range_rows;
  heavy_.resize(ranges.size());
  for_each_block(ranges, [&](const Block& range) {
    const int64_t group = range.first_query / ranges.group_queries;
    Range(*this, range, heavy_[group * ranges.num_ranges + range.range]).run();
  });
}

// Replaces the split scores of heavy pairs in the sums by exact ones. Returns false if this leaves
// a query whose sum may be inexact.
bool add_exactly(const SoftmaxCall& call, const SplitScores& splits, const Thresholds& thresholds,
                 const Pass& pass, std::vector<LogSum>& sums, std::vector<char>& is_exact) {
  // The score of an item whose probability is that from which on scores are exact.
  const auto heavy_score = [&](int64_t q) {
    return sums[q].log() + call.temperature * std::log(splits.heavy(q));
  };
  std::vector<int64_t> ends(call.queries.rows + 1);
  for (const auto& pairs : pass.heavy())
    for (const Pair& pair : pairs) ++ends[pair.query + 1];
  bool complete = true;
  for (int64_t q = 0; q < call.queries.rows; ++q) {
    const double highest = heavy_score(q) + call.temperature * 1e-3;
    is_exact[q] = is_exact[q] && ends[q + 1] <= Pass::kMaxHeavy && thresholds.heavy[q] <= highest;
    complete = complete && is_exact[q];
    ends[q + 1] += ends[q];
  }
  std::vector<Pair> sorted(ends.back());
  std::vector<int64_t> next(ends.begin(), ends.end() - 1);
  for (const auto& pairs : pass.heavy())
    for (const Pair& pair : pairs) sorted[next[pair.query]++] = pair;
  parallel_for(0, call.queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    ExactPairs exact(call.queries, call.catalog.items,
                     [&](int64_t query, int64_t, float approximate, float score) {
                       sums[query].replace(approximate + splits.rounding(query), score);
                     });
    for (int64_t q = begin; q < end; ++q) {
      if (ends[q] == ends[q + 1]) continue;
      const double lowest = heavy_score(q);
      for (int64_t i = ends[q]; i < ends[q + 1] && is_exact[q]; ++i)
        if (sorted[i].score >= lowest) exact.add(q, sorted[i].item, sorted[i].score);
      exact.flush();
    }
  });
  return complete;
}

}  // namespace

bool sum_exponentials(const SoftmaxCall& call, std::vector<LogSum>& sums, Counts* counts) {
  const int64_t num_queries = call.queries.rows;
  const SplitScores splits(call.catalog, call.queries, call.temperature);
  std::vector<char> is_done(num_queries);
  bool complete = false, has_counted = false;
  sums.assign(num_queries, LogSum(call.temperature));
  if (splits.any_split()) {
    Catalog split(call.catalog, kThreeInt8, call.queries);
    split.settles = false;
    if (!splits.all_split()) counts = nullptr;
    const Thresholds thresholds(call, split, splits, counts != nullptr);
    const Pass pass(call, split, splits, &thresholds, counts);
    has_counted = pass.has_counted();
    counts = nullptr;
    for (int64_t q = 0; q < num_queries; ++q) is_done[q] = splits.is_split(q);
    pass.add_up(sums, is_done, true);
    complete = add_exactly(call, splits, thresholds, pass, sums, is_done);
  }
  if (!complete) {
    for (int64_t q = 0; q < num_queries; ++q)
      if (!is_done[q]) sums[q] = LogSum(call.temperature);
    const Pass pass(call, call.catalog, splits, nullptr, counts);
    has_counted = has_counted || pass.has_counted();
    pass.add_up(sums, is_done, false);
  }
  return has_counted;
}

}  // namespace rl4rec
