#include "cpu/refine.h"

#include <limits>

#include "cpu/tuning.h"

namespace rl4rec {
namespace {

// Rounds up to float32, with a margin for the few operations on a bound.
float round_up(double value) { return static_cast<float>(value * (1 + 1e-6)) + 1e-37f; }

// The pairs of a strip of items whose quantized scores do not decide which is above, by item.
class UndecidedPairs {
 public:
  UndecidedPairs(int64_t num_items, int64_t num_queries)
      : num_queries_(num_queries),
        sizes_(num_items),
        queries_(num_items * num_queries),
        rows_(num_items * num_queries + kPrefetchRows),
        scores_(num_queries) {}

  void add(int64_t item, int64_t query) {
    queries_[item * num_queries_ + sizes_[item]++] = static_cast<int32_t>(query);
  }

  // Calls fn(item row, query, score) for each pair and removes them all. `item_row(item)` and
  // `query_row(query)` give the factors of a score.
  template <typename ItemRow, typename QueryRow, typename Fn>
  void rescore(int64_t dim, const ItemRow& item_row, const QueryRow& query_row, const Fn& fn) {
    // The rows of all items are in one list, so that those of the next item are prefetched in time.
    int64_t count = 0;
    for (size_t item = 0; item < sizes_.size(); ++item)
      for (int32_t j = 0; j < sizes_[item]; ++j)
        rows_[count++] = query_row(queries_[item * num_queries_ + j]);
    if (count == 0) return;
    std::fill_n(&rows_[count], kPrefetchRows, rows_[count - 1]);
    const bool prefetch = num_queries_ * dim * 4 > kL2CacheBytes;
    const void* const* rows = rows_.data();
    for (size_t item = 0; item < sizes_.size(); ++item) {
      const int64_t n = sizes_[item];
      if (n == 0) continue;
      const float* item_values = item_row(item);
      level().rows.dot_rows[kFloat32](item_values, rows, n, dim, prefetch, scores_.data());
      for (int64_t j = 0; j < n; ++j)
        fn(item_values, queries_[item * num_queries_ + j], scores_[j]);
      rows += n;
      sizes_[item] = 0;
    }
  }

 private:
  int64_t num_queries_;
  std::vector<int32_t> sizes_, queries_;
  std::vector<const void*> rows_;
  std::vector<float> scores_;
};

}  // namespace

Refinement::Refinement(const Catalog& quantized, const Embeddings& queries, const Tensor& source)
    : quantized_(quantized),
      source_(source, std::nullopt, std::nullopt, queries),
      padded_dim_(queries.padded_dim()),
      queries_(queries.rows * padded_dim_),
      slope_norm_(queries.rows),
      slope_error_(queries.rows),
      rounding_(queries.rows),
      constant_(queries.rows) {
  check(source_.items.rows == quantized.items.rows, "source has ", source_.items.rows,
        " rows, table ", quantized.items.rows);
  check(source_.arithmetic == Arithmetic::kFloat,
        "query must be float32 with refine=True; convert it with query.float()");
  const int64_t dim = queries.dim;
  const double unit = std::ldexp(1.0, -24);
  check(dim < (1 << 22), "refine=True needs less than ", 1 << 22, " dimensions, got ", dim);
  const double gamma = (dim + 1) * unit / (1 - (dim + 1) * unit);
  const double gamma_quantized = (dim + 8) * unit / (1 - (dim + 8) * unit);
  const double underflow = (dim + 1) * std::ldexp(1.0, -120);
  std::vector<float> rounded(padded_dim_);
  for (int64_t q = 0; q < queries.rows; ++q) {
    float* query = queries_.data() + q * padded_dim_;
    queries.copy_row(q, query);
    const float scale = round_query(quantized, query, dim, rounded.data());
    double norm = 0.0, error = 0.0;
    for (int64_t j = 0; j < dim; ++j) {
      const double off = query[j] - double{scale} * rounded[j];
      norm += double{query[j]} * query[j];
      error += off * off;
    }
    norm = std::sqrt(norm);
    error = std::sqrt(error);
    check(norm < 1e18, "query: row ", q, " has NaN, infinite or huge values (its norm is ", norm,
          "), which refine=True cannot bound; fix it, or pass refine=False");
    slope_norm_[q] = round_up(error + gamma * norm + gamma_quantized * (norm + error) + underflow);
    slope_error_[q] = round_up(norm * (1 + gamma));
    // dot_rows has kStep partial sums, which it adds pairwise.
    rounding_[q] = round_up((gamma + (dim / kStep + 7) * 2 * unit) * norm);
    constant_[q] = round_up(underflow * (1 + norm));
  }
}

void Refinement::score(int64_t q, int64_t first, const int64_t* items, int64_t n,
                       float* scores) const {
  const Embeddings& source = source_.items;
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
  }
}

const float* Refinement::source_row(int64_t id, std::vector<float>& copy) const {
  const Embeddings& items = source_.items;
  if (items.storage == kFloat32 && items.dim % kStep == 0)
    return static_cast<const float*>(items.row(id));
  items.copy_row(id, copy.data());
  return copy.data();
}

void Refinement::count_block(const Exclusions& exclusions, const Panels& panels, const Block& block,
                             const float* target_scores, Counts& counts) const {
  const TileKernels& tile = quantized_.tile;
  const int64_t lanes = tile.lanes, dim = quantized_.items.dim;
  const int lanes_log2 = __builtin_ctzll(lanes);
  const int64_t num_panels = panels.size(), first_panel = block.first_query / lanes;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Lanes without a query find nothing.
  std::vector<float> low(num_panels * lanes, kInfinity), high(num_panels * lanes, kInfinity);
  std::vector<float> rounding(block.num_queries);
  std::vector<int32_t> above(num_panels * lanes), tied(num_panels * lanes);
  auto entries = exclusions.seek(first_panel, num_panels, block.begin);

  std::vector<ItemTile> strip(kStripTiles, ItemTile(quantized_));
  UndecidedPairs undecided(kStripTiles * tile.rows, block.num_queries);
  std::vector<float> copy(padded_dim_);
  float scores[kMaxTileRows * kMaxLanes];
  uint32_t positions[kMaxPositions];
  // One strip of items after the other: a few panels at a time are scored against all of it, and
  // each undecided item is read once for all queries.
  const int64_t panels_at_once = Partition::panels_at_once(quantized_);
  for (int64_t begin = block.begin; begin < block.end;) {
    float norm = 0.0f, error = 0.0f;
    for (ItemTile& items : strip) {
      begin = items.load(begin, block.end);
      for (int64_t r = 0; r < items.size(); ++r) {
        norm = std::max(norm, quantized_.norm(items.ids()[r]));
        error = std::max(error, quantized_.error(items.ids()[r]));
      }
    }
    for (int64_t i = 0; i < block.num_queries; ++i) {
      const int64_t q = block.first_query + i;
      const float margin = bound(q, norm, error, target_scores[q]);
      low[i] = target_scores[q] - margin;
      high[i] = target_scores[q] + margin;
      rounding[i] = this->rounding(q, norm, error);
    }
    for (int64_t first = 0; first < num_panels; first += panels_at_once)
      for (int64_t t = 0; t < kStripTiles && strip[t].size() > 0; ++t)
        for (int64_t p = first; p < std::min(first + panels_at_once, num_panels); ++p) {
          strip[t].score(panels, p, scores);
          exclusions.apply(entries[p], first_panel + p, strip[t], -kInfinity, scores);
          const int64_t n = tile.count_and_collect(scores, strip[t].size(), &low[p * lanes],
                                                   &high[p * lanes], &above[p * lanes], positions);
          for (int64_t i = 0; i < n; ++i)
            undecided.add(t * tile.rows + (positions[i] >> lanes_log2),
                          p * lanes + (positions[i] & (lanes - 1)));
        }
    undecided.rescore(
        dim, [&](int64_t i) { return source_row(strip[i / tile.rows].ids()[i % tile.rows], copy); },
        [&](int64_t i) { return query(block.first_query + i); },
        [&](const float* item, int64_t i, float score) {
          const float target = target_scores[block.first_query + i];
          if (std::fabs(score - target) <= rounding[i]) {
            const float* row = query(block.first_query + i);
            level().sequential_dot(item, &row, 1, dim, &score);
          }
          above[i] += score > target;
          tied[i] += score == target;
        });
  }
  for (int64_t i = 0; i < block.num_queries; ++i)
    counts.add(block.first_query + i, above[i], tied[i], 0);
}

}  // namespace rl4rec
