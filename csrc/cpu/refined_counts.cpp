// Refinement::count_block: counts by approximate scores, and by exact ones of undecided pairs.
#include <algorithm>
#include <limits>

#include "cpu/exact_counts.h"
#include "cpu/refine.h"
#include "cpu/strips.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

// The pairs of a strip of items whose approximate scores do not decide which is above. They take as
// much memory as there are: few of all pairs, and new memory takes longer than to sort them.
class UndecidedPairs {
 public:
  UndecidedPairs(int64_t num_items, int64_t num_queries)
      : num_queries_(num_queries), sizes_(num_items), starts_(num_items), scores_(num_queries) {}

  void add(int64_t item, int64_t query) {
    pairs_.push_back({static_cast<int32_t>(item), static_cast<int32_t>(query)});
    ++sizes_[item];
  }

  // Calls fn(item row, query, score) for each pair and removes them all. `item_row(item)` and
  // `query_row(query)` give the factors of a score; `prefetch(item)` is called before the former,
  // which is for a later item if the last one is done: that is when `done()` is called.
  template <typename ItemRow, typename QueryRow, typename Prefetch, typename Fn, typename Done>
  Rescored rescore(int64_t dim, const ItemRow& item_row, const QueryRow& query_row,
                   const Prefetch& prefetch_item, const Fn& fn, const Done& done) {
    const auto count = static_cast<int64_t>(pairs_.size());
    if (count == 0) return {0, 0};
    sort_by_item();
    // The rows of all items are in one list, so that those of the next item are prefetched in time.
    rows_.resize(count + kPrefetchRows);
    for (int64_t j = 0; j < count; ++j) rows_[j] = query_row(queries_[j]);
    std::fill_n(&rows_[count], kPrefetchRows, rows_[count - 1]);
    const bool prefetch = num_queries_ * dim * 4 > kL2CacheBytes;
    const auto num_items = static_cast<int64_t>(items_.size());
    int64_t first = 0;
    for (int64_t i = -kRescoredAhead; i < num_items; ++i) {
      if (i + kRescoredAhead < num_items) prefetch_item(items_[i + kRescoredAhead]);
      if (i < 0) continue;
      const int64_t item = items_[i], n = sizes_[item];
      const float* item_values = item_row(item);
      level().rows.dot_rows[kFloat32](item_values, &rows_[first], n, dim, prefetch, scores_.data());
      for (int64_t j = 0; j < n; ++j) fn(item_values, queries_[first + j], scores_[j]);
      done();
      first += n;
      sizes_[item] = 0;
    }
    pairs_.clear();
    return {count, num_items};
  }

 private:
  struct Pair {
    int32_t item, query;
  };

  // Writes the queries of all pairs, those of the first item before those of the next, and the
  // items that have any.
  void sort_by_item() {
    items_.clear();
    int32_t start = 0;
    for (size_t item = 0; item < sizes_.size(); ++item) {
      starts_[item] = start;
      start += sizes_[item];
      if (sizes_[item] > 0) items_.push_back(static_cast<int32_t>(item));
    }
    queries_.resize(pairs_.size());
    for (const Pair& pair : pairs_) queries_[starts_[pair.item]++] = pair.query;
  }

  int64_t num_queries_;
  std::vector<Pair> pairs_;
  std::vector<int32_t> sizes_, starts_, items_, queries_;
  std::vector<const void*> rows_;
  std::vector<float> scores_;
};

// The scores of a tile and a panel, if there is one.
struct Scored {
  const ItemTile* items = nullptr;
  int64_t panel = 0;
  const float* scores = nullptr;
};

// Pairs whose scores by dot_rows do not decide either. They are scored exactly, 16 at a time.
template <typename Fn>
class ClosePairs {
 public:
  ClosePairs(int64_t dim, const Fn& fn) : dim_(dim), fn_(fn) {}

  void add(int64_t i, const float* query, const float* item) {
    numbers_[size_] = i;
    queries_[size_] = query;
    items_[size_] = item;
    if (++size_ == kSize) rescore();
  }

  // Calls fn(i, exact score) for each pair and removes them all.
  void rescore() {
    float scores[kSize];
    level().sequential_dots(queries_, items_, size_, dim_, scores);
    for (int64_t j = 0; j < size_; ++j) fn_(numbers_[j], scores[j]);
    size_ = 0;
  }

 private:
  static constexpr int64_t kSize = 16;
  int64_t dim_, size_ = 0, numbers_[kSize];
  const float *queries_[kSize], *items_[kSize];
  Fn fn_;
};

}  // namespace

void Refinement::count_block(const Exclusions& exclusions, const Block& block,
                             const float* target_scores, Counts& counts) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();  // neither above nor undecided
  const int64_t dim = exact_.items.dim, first_query = block.first_query;
  const int64_t num_lanes = (block.num_queries + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
  // Lanes without a query find nothing.
  std::vector<float> low(num_lanes, kInfinity), high = low;
  const float* targets = target_scores + first_query;
  std::vector<float> rounding(block.num_queries);
  std::vector<int32_t> above(num_lanes), tied(block.num_queries);

  UndecidedPairs undecided(kStripRows, block.num_queries);
  ClosePairs close(dim, [&](int64_t i, float score) {
    above[i] += score > targets[i];
    tied[i] += score == targets[i];
  });
  std::vector<float> copy;
  alignas(64) float buffers[2][kMaxTileScores];
  uint32_t positions[kMaxPositions];
  Strips strips(*this, block);
  int64_t end = block.begin;
  const auto count_exact = [&](int64_t begin) {
    const Block part{first_query, block.num_queries, block.range, begin, end};
    count_exactly(exact_, queries_, exclusions, part, target_scores, counts);
    strips.forget(end - begin);
  };
  for (int64_t begin = end; begin < block.end; begin = end) {
    end = std::min(begin + strips.next_rows(), block.end);
    if (strips.prefers_exact()) {
      count_exact(begin);
      continue;
    }
    const Strip& strip = strips.load(begin, end);
    if (!strip.approximation) {  // an item has no bound
      count_exact(begin);
      continue;
    }
    const TileKernels& tile = strip.catalog->tile;
    const int lanes_log2 = __builtin_ctzll(tile.lanes);
    for (int64_t i = 0; i < block.num_queries; ++i) {
      const int64_t q = first_query + i;
      // An infinite target needs no margin: the scores of bounded pairs are finite.
      const float margin =
          std::isfinite(targets[i]) ? strip.approximation->bound(q, strip.norms, targets[i]) : 0.0f;
      low[i] = targets[i] - margin;
      high[i] = targets[i] + margin;
      rounding[i] = this->rounding(q, strip.norms);
    }
    auto entries = exclusions.seek(first_query, tile.lanes, strip.panels->size(), begin);
    // The scores of a tile are counted while those of the next one are computed.
    Scored last;
    const auto collect = [&](int64_t n) {
      const int64_t first = last.panel * tile.lanes;
      if (n < 0)
        n = tile.count_and_collect(last.scores, last.items->size(), &low[first], &high[first],
                                   /*only_finite=*/false, &above[first], positions);
      for (int64_t i = 0; i < n; ++i)
        undecided.add(last.items->ids()[positions[i] >> lanes_log2] - begin,
                      first + (positions[i] & (tile.lanes - 1)));
    };
    strips.for_each_tile([&](const ItemTile& items, int64_t p) {
      const int64_t first = p * tile.lanes;
      float* scores = buffers[last.scores == buffers[0]];
      int64_t num_collected = -1;
      if (last.items && last.items->size() == tile.rows && tile.score_and_collect) {
        const int64_t other = last.panel * tile.lanes;
        num_collected = items.multiply_and_collect(
            *strip.panels, p, scores,
            {last.scores, &low[other], &high[other], &above[other], positions});
      } else {
        items.score(*strip.panels, p, scores);
      }
      exclusions.apply(entries[p], first_query + first, tile.lanes, items, kNan, scores);
      if (last.items) collect(num_collected);
      last = {&items, p, scores};
    });
    if (last.items) collect(-1);
    const Rescored rescored = undecided.rescore(
        dim, [&](int64_t i) { return item(begin + i, copy); },
        [&](int64_t i) { return query(first_query + i); },
        [&](int64_t i) {
          if (!strips.reads_source()) prefetch_row(exact_.items, begin + i);
        },
        [&](const float* values, int64_t i, float score) {
          if (std::fabs(score - targets[i]) <= rounding[i])
            close.add(i, query(first_query + i), values);
          else
            above[i] += score > targets[i];
        },
        [&] {
          if (copies_items()) close.rescore();  // the next item is written over this one
        });
    strips.learn(end - begin, rescored);
  }
  close.rescore();
  for (int64_t i = 0; i < block.num_queries; ++i) counts.add(first_query + i, above[i], tied[i], 0);
}

}  // namespace rl4rec
