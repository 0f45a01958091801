#include "cpu/refine.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "cpu/strips.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

constexpr double kUnit = 1.0 / (1 << 24);
constexpr float kHuge = 1e18f;              // the square of a norm must be finite
constexpr int64_t kMaxSplitInt8 = 1 << 15;  // dimensions, so that sums fit into int32

// Rounds up to float32, with a margin for the few operations on a bound.
float round_up(double value) { return static_cast<float>(value * (1 + 1e-6)) + 1e-37f; }

double gamma(double additions) { return additions * kUnit / (1 - additions * kUnit); }

double underflow(int64_t dim) { return (dim + 1) * std::ldexp(1.0, -120); }

// Calls fn(q, scratch) for every query, from several threads. `scratch` has room for two rows.
template <typename Fn>
void for_each_query(const Embeddings& queries, const Fn& fn) {
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[2 * queries.padded_dim()]);
    for (int64_t q = begin; q < end; ++q) fn(q, scratch.get());
  });
}

// At least the norms of a query, of what rounding it removes, and of its second part.
struct QueryNorms {
  double query, error, rest;
};

QueryNorms norms_of(const Catalog& catalog, const Embeddings& queries, int64_t q, float* scratch) {
  if (catalog.arithmetic == kFew && catalog.items.storage == kInt8) {
    RowNorms norms;
    float scale;
    queries.to_int16(q, reinterpret_cast<int16_t*>(scratch), &scale, &norms);
    return {double{norms.norm} + norms.error, norms.error, 0.0};
  }
  if (catalog.rounds) {
    auto* words = reinterpret_cast<uint32_t*>(scratch);
    RowNorms norms{};
    float scale;
    if (catalog.arithmetic == kSplitInt8)
      queries.to_split_int8(q, words, words + queries.padded_dim(), &scale, &norms);
    else if (catalog.arithmetic == kThreeInt8)
      queries.to_three_int8(q, words, queries.padded_dim() / 4, &scale, &norms);
    else
      queries.to_bfloat16(q, words, nullptr, &norms.norm, &norms.error);
    return {double{norms.norm} + norms.error, norms.error, norms.rest};
  }
  queries.copy_row(q, scratch);
  if (catalog.arithmetic == kFew) {  // nothing is rounded
    double squares[8] = {};          // which the compiler adds to at once
    for (int64_t j = 0; j < queries.padded_dim(); j += 8)
      for (int64_t i = 0; i < 8; ++i) squares[i] += double{scratch[j + i]} * scratch[j + i];
    return {std::sqrt(std::accumulate(squares, squares + 8, 0.0)), 0.0, 0.0};
  }
  float* rounded = scratch + queries.padded_dim();
  const float scale = round_query(catalog, scratch, queries.dim, rounded);
  double norm = 0.0, error = 0.0;
  for (int64_t j = 0; j < queries.dim; ++j) {
    const double off = scratch[j] - double{scale} * rounded[j];
    norm += double{scratch[j]} * scratch[j];
    error += off * off;
  }
  return {std::sqrt(norm), std::sqrt(error), 0.0};
}

// Whether kFew can read the rows of a quantized table.
bool has_few_kernel(const Catalog& quantized) {
  return quantized.items.storage != kInt8 ||
         (level().score_few_int8[0] && quantized.items.dim <= kMaxInt8Dim);
}

// The pairs of a strip of items whose approximate scores do not decide which is above, by item.
class UndecidedPairs {
 public:
  UndecidedPairs(int64_t num_items, int64_t num_queries)
      : num_queries_(num_queries),
        sizes_(num_items),
        items_(num_items),
        queries_(new int32_t[num_items * num_queries]),
        rows_(new const void*[num_items * num_queries + kPrefetchRows]),
        scores_(num_queries) {}

  void add(int64_t item, int64_t query) {
    queries_[item * num_queries_ + sizes_[item]++] = static_cast<int32_t>(query);
  }

  // Calls fn(item row, query, score) for each pair and removes them all. `item_row(item)` and
  // `query_row(query)` give the factors of a score; `prefetch(item)` is called before the former,
  // which is for a later item if the last one is done: that is when `done()` is called.
  template <typename ItemRow, typename QueryRow, typename Prefetch, typename Fn, typename Done>
  Rescored rescore(int64_t dim, const ItemRow& item_row, const QueryRow& query_row,
                   const Prefetch& prefetch_item, const Fn& fn, const Done& done) {
    // The rows of all items are in one list, so that those of the next item are prefetched in time.
    int64_t count = 0, num_items = 0;
    for (size_t item = 0; item < sizes_.size(); ++item) {
      if (sizes_[item] == 0) continue;
      items_[num_items++] = item;
      for (int32_t j = 0; j < sizes_[item]; ++j)
        rows_[count++] = query_row(queries_[item * num_queries_ + j]);
    }
    if (count == 0) return {0, 0};
    std::fill_n(&rows_[count], kPrefetchRows, rows_[count - 1]);
    const bool prefetch = num_queries_ * dim * 4 > kL2CacheBytes;
    const void* const* rows = rows_.get();
    for (int64_t i = -kRescoredAhead; i < num_items; ++i) {
      if (i + kRescoredAhead < num_items) prefetch_item(items_[i + kRescoredAhead]);
      if (i < 0) continue;
      const int64_t item = items_[i], n = sizes_[item];
      const float* item_values = item_row(item);
      level().rows.dot_rows[kFloat32](item_values, rows, n, dim, prefetch, scores_.data());
      for (int64_t j = 0; j < n; ++j)
        fn(item_values, queries_[item * num_queries_ + j], scores_[j]);
      done();
      rows += n;
      sizes_[item] = 0;
    }
    return {count, num_items};
  }

 private:
  int64_t num_queries_;
  std::vector<int32_t> sizes_;
  std::vector<int64_t> items_;  // that have pairs, while these are rescored
  // Without initial values: little of them is used.
  std::unique_ptr<int32_t[]> queries_;
  std::unique_ptr<const void*[]> rows_;
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

Approximation::Approximation(Catalog given, const Embeddings& queries)
    : catalog(std::move(given)),
      slope_norm(queries.rows),
      slope_error(queries.rows),
      slope_rest(queries.rows),
      constant(queries.rows) {
  catalog.settles = false;
  const int64_t dim = queries.dim;
  const bool is_split = catalog.arithmetic == kSplit;
  const double exact = gamma(dim + 1), approximate = gamma((is_split ? 3 : 1) * dim + 24);
  const double lost = underflow(dim);
  for_each_query(queries, [&](int64_t q, float* scratch) {
    const auto [norm, error, rest] = norms_of(catalog, queries, q, scratch);
    if (catalog.arithmetic == kSplitInt8) {
      // The sums are at most (|q^| + 2 |s b / 256|) times the same of the item.
      const double rounded = gamma(8) * (norm + error + 2 * rest);
      slope_norm[q] = round_up(error + exact * norm + rounded + lost);
      slope_error[q] = round_up(norm * (1 + exact));
      slope_rest[q] = round_up(rest + 2 * rounded);
    } else if (catalog.arithmetic == kThreeInt8) {
      slope_norm[q] = round_up(exact * norm + lost);
      slope_error[q] = round_up(norm * (1 + exact));
      slope_rest[q] = round_up(std::ldexp(rest, -19));
    } else if (is_split) {
      const double left_out = 3.1 * std::ldexp(1.0, -16);
      slope_norm[q] = round_up(norm * (left_out + exact + 1.02 * approximate) + lost);
      slope_error[q] = slope_norm[q];
    } else {
      slope_norm[q] = round_up(error + exact * norm + approximate * (norm + error) + lost);
      slope_error[q] = round_up(norm * (1 + exact));
    }
    constant[q] = round_up(lost * (1 + norm));
  });
}

bool Refinement::pays(const Catalog& catalog, const Embeddings& queries) {
  const bool has_amx = level().wide[kSplit].score != nullptr;
  return catalog.arithmetic == kFloat && catalog.items.storage != kInt8 &&
         (has_amx || queries.rows <= kMaxFewQueries) && 0 < catalog.items.dim &&
         catalog.items.dim < (1 << 20);
}

Refinement::Refinement(const Catalog& exact, const Embeddings& queries, const Catalog* quantized,
                       bool compares)
    : exact_(exact),
      queries_(queries),
      padded_dim_(queries.padded_dim()),
      query_words_(make_words(queries.rows * padded_dim_)),
      rounding_(queries.rows),
      rounding_constant_(queries.rows) {
  const int64_t dim = queries.dim;
  if (quantized) {
    check(exact.items.rows == quantized->items.rows, "source has ", exact.items.rows,
          " rows, table ", quantized->items.rows);
    check(exact.arithmetic == kFloat,
          "query must be float32 with refine=True; convert it with query.float()");
    check(dim < (1 << 22), "refine=True needs less than ", 1 << 22, " dimensions, got ", dim);
  }
  const bool has_amx = level().wide[kSplit].score != nullptr && pays(exact, queries);
  approximations_.reserve(4);
  const auto add = [&](const Catalog& items, Arithmetic arithmetic) {
    approximations_.emplace_back(Catalog(items, arithmetic, queries), queries);
  };
  if (queries.rows <= kMaxFewQueries && pays(exact, queries)) {
    add(exact, kFew);
    if (quantized && has_few_kernel(*quantized))
      add(*quantized, kFew);
    else if (quantized)
      approximations_.emplace_back(*quantized, queries);
  } else if (quantized &&
             !(has_amx && quantized->arithmetic == kInt8Quads && queries.rows > kMaxLanes)) {
    // int8 leaves many more pairs undecided than bfloat16, which costs AMX little more. But it is
    // less to read, and reading is what takes the time of fewer queries.
    approximations_.emplace_back(*quantized, queries);
  }
  if (has_amx && queries.rows > kMaxFewQueries) {
    if (!quantized || quantized->arithmetic != kBFloat16Pairs) add(exact, kBFloat16Pairs);
    if (compares && dim <= kMaxSplitInt8) add(exact, kSplitInt8);
    add(exact, kSplit);
  }
  for_each_query(queries, [&](int64_t q, float*) {
    float* query = reinterpret_cast<float*>(query_words_.get()) + q * padded_dim_;
    queries.copy_row(q, query);
    const float norm = approximations_[0].slope_error[q];
    // dot_rows has kStep partial sums, which it adds pairwise.
    rounding_[q] = round_up((gamma(dim + 1) + (dim / kStep + 7) * 2 * kUnit) * norm);
    rounding_constant_[q] = round_up(underflow(dim) * (1 + norm));
  });
  if (!quantized) return;
  const std::vector<float>& norms = approximations_[0].slope_error;
  const int64_t q =
      std::find_if_not(norms.begin(), norms.end(), [](float norm) { return norm < kHuge; }) -
      norms.begin();
  check(q == queries.rows, "query: row ", q, " has NaN, infinite or huge values (its norm is not ",
        "below ", kHuge, "), which refine=True cannot bound; fix it, or pass refine=False");
}

bool Approximation::is_bounded(const Block& block) const {
  const auto first = slope_error.begin() + block.first_query;
  return std::all_of(first, first + block.num_queries, [](float norm) { return norm < kHuge; });
}

void Refinement::score(int64_t q, int64_t first, const int64_t* items, int64_t n,
                       float* scores) const {
  const Embeddings& source = exact_.items;
  const bool copied = source.storage != kFloat32;
  const int64_t at_once = copied ? 16 : n;
  std::vector<float> copies(copied ? at_once * padded_dim_ : 0);
  std::vector<const float*> rows(at_once);
  for (int64_t i = 0; i < n; i += at_once) {
    const int64_t m = std::min(at_once, n - i);
    for (int64_t j = 0; j < m; ++j) {
      const int64_t id = first + items[i + j];
      if (copied) source.copy_row(id, copies.data() + j * padded_dim_);
      rows[j] =
          copied ? copies.data() + j * padded_dim_ : static_cast<const float*>(source.row(id));
    }
    level().sequential_dot(query(q), rows.data(), m, source.dim, scores + i);
    for (int64_t j = 0; j < m; ++j)
      if (!is_finite(scores[i + j])) scores[i + j] = float64_score(query(q), rows[j], source.dim);
  }
}

const float* Refinement::item(int64_t id, std::vector<float>& copy) const {
  if (!copies_items()) return static_cast<const float*>(exact_.items.row(id));
  copy.resize(padded_dim_);
  exact_.items.copy_row(id, copy.data());
  return copy.data();
}

void Refinement::count_block(const Exclusions& exclusions, const Block& block,
                             const float* target_scores, Counts& counts) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();  // neither above nor undecided
  const int64_t dim = exact_.items.dim, first_query = block.first_query;
  const int64_t num_lanes = (block.num_queries + kMaxLanes - 1) / kMaxLanes * kMaxLanes;
  // Lanes without a query find nothing.
  std::vector<float> low(num_lanes, kInfinity), high = low, targets = low;
  std::copy_n(target_scores + first_query, block.num_queries, targets.begin());
  std::vector<float> rounding(block.num_queries);
  std::vector<int32_t> above(num_lanes), tied(num_lanes);

  UndecidedPairs undecided(kStripRows, block.num_queries);
  ClosePairs close(dim, [&](int64_t i, float score) {
    above[i] += score > targets[i];
    tied[i] += score == targets[i];
  });
  std::vector<float> copy;
  alignas(64) float buffers[2][kMaxTileScores];
  uint32_t positions[kMaxPositions];
  Strips strips(*this, block);
  for (int64_t begin = block.begin; begin < block.end; begin += kStripRows) {
    const int64_t end = std::min(begin + kStripRows, block.end);
    const Strip& strip = strips.load(begin, end);
    const TileKernels& tile = strip.catalog->tile;
    const int lanes_log2 = __builtin_ctzll(tile.lanes);
    for (int64_t i = 0; i < block.num_queries && strip.approximation; ++i) {
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
      if (!strip.approximation)
        return void(tile.count(scores, items.size(), &targets[first], /*only_finite=*/false,
                               &above[first], &tied[first]));
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
    strips.learn((end - begin) * block.num_queries, rescored);
  }
  close.rescore();
  for (int64_t i = 0; i < block.num_queries; ++i) counts.add(first_query + i, above[i], tied[i], 0);
}

}  // namespace rl4rec
