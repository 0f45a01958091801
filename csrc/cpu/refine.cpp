#include "cpu/refine.h"

#include <cmath>
#include <limits>

namespace rl4rec {
namespace {

constexpr int64_t kStripTiles = 8;

// Rounds up to float32, with room for the roundings of the few operations on a bound.
float up(double value) { return static_cast<float>(value * (1 + 1e-6)) + 1e-37f; }

// The pairs of a tile whose quantized score decides nothing, item by item.
class Doubtful {
 public:
  Doubtful(int64_t num_items, int64_t num_queries)
      : num_queries_(num_queries),
        sizes_(num_items),
        queries_(num_items * num_queries),
        rows_(num_items * num_queries + kLookahead),
        scores_(num_queries) {}

  void add(int64_t item, int64_t query) {
    queries_[item * num_queries_ + sizes_[item]++] = static_cast<int32_t>(query);
  }

  // Calls item_row(item) for each item and visit(item row, query, score) for each pair, and forgets
  // them. `query_row(query)` gives the other factor of a score.
  template <typename ItemRow, typename QueryRow, typename Visit>
  void for_each(int64_t dim, const ItemRow& item_row, const QueryRow& query_row,
                const Visit& visit) {
    // The rows of all items stand in one list, so that those of the next item are fetched in time.
    int64_t count = 0;
    for (size_t item = 0; item < sizes_.size(); ++item)
      for (int32_t j = 0; j < sizes_[item]; ++j)
        rows_[count++] = query_row(queries_[item * num_queries_ + j]);
    if (count == 0) return;
    std::fill_n(&rows_[count], kLookahead, rows_[count - 1]);
    const bool fetch = num_queries_ * dim * 4 > kCacheBytes;
    const void* const* rows = rows_.data();
    for (size_t item = 0; item < sizes_.size(); ++item) {
      const int64_t n = sizes_[item];
      if (n == 0) continue;
      const float* item_values = item_row(item);
      simd().dot_rows[kFloat32](item_values, rows, n, dim, fetch, scores_.data());
      for (int64_t j = 0; j < n; ++j)
        visit(item_values, queries_[item * num_queries_ + j], scores_[j]);
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
        "query must be float32 for refine=True; "
        "convert it with query.float()");
  const int64_t dim = queries.dim;
  const double unit = std::ldexp(1.0, -24);
  check(dim < (1 << 22), "refine=True takes up to ", (1 << 22), " dimensions, got ", dim);
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
    check(norm < 1e18, "query: row ", q, " holds NaN, infinity or huge values (its length is ",
          norm, "), which refine=True cannot bound; mend it, or pass refine=False");
    slope_norm_[q] = up(error + gamma * norm + gamma_quantized * (norm + error) + underflow);
    slope_error_[q] = up(norm * (1 + gamma));
    // dot_rows adds up kStep chains, and these pairwise.
    rounding_[q] = up((gamma + (dim / kStep + 7) * 2 * unit) * norm);
    constant_[q] = up(underflow * (1 + norm));
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
    simd().tiles->chain(query(q), rows.data(), m, source.dim, scores + i);
  }
}

const float* Refinement::source_row(int64_t id, std::vector<float>& copy) const {
  const Embeddings& items = source_.items;
  if (items.storage == kFloat32 && items.dim % kStep == 0)
    return static_cast<const float*>(items.row(id));
  items.copy_row(id, copy.data());
  return copy.data();
}

void Refinement::count_piece(const Exclusions& exclusions, const Panels& panels,
                             int64_t first_query, int64_t num_queries, int64_t begin, int64_t end,
                             const float* target_scores, Counts& counts) const {
  const Tile& tile = quantized_.tile;
  const int64_t lanes = tile.lanes, dim = quantized_.items.dim;
  const int lanes_log2 = __builtin_ctzll(lanes);
  const int64_t num_panels = panels.size(), first_panel = first_query / lanes;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Lanes without a query find nothing.
  std::vector<float> low(num_panels * lanes, kInfinity), high(num_panels * lanes, kInfinity);
  std::vector<float> rounding(num_queries);
  std::vector<int32_t> above(num_panels * lanes), tied(num_panels * lanes);
  std::vector<const Exclusions::Entry*> entries = exclusions.from(first_panel, num_panels, begin);

  std::vector<ItemTile> strip(kStripTiles, ItemTile(quantized_));
  Doubtful doubtful(kStripTiles * tile.rows, num_queries);
  std::vector<float> copy(padded_dim_);
  float scores[kMaxTileRows * kMaxLanes];
  uint32_t places[kMaxTileRows * kMaxLanes + kMaxLanes];
  // A strip of items at a time: a few panels meet all of it, and each item in doubt is read once
  // for all queries.
  const int64_t panels_at_once = Pieces::panels_at_once(quantized_);
  while (begin < end) {
    float norm = 0.0f, error = 0.0f;
    for (ItemTile& items : strip) {
      begin = items.load(begin, end);
      for (int64_t r = 0; r < items.size(); ++r) {
        norm = std::max(norm, quantized_.norm(items.ids()[r]));
        error = std::max(error, quantized_.error(items.ids()[r]));
      }
    }
    for (int64_t i = 0; i < num_queries; ++i) {
      const float target = target_scores[first_query + i];
      const float margin = bound(first_query + i, norm, error, target);
      low[i] = target - margin;
      high[i] = target + margin;
      rounding[i] = this->rounding(first_query + i, norm, error);
    }
    for (int64_t first = 0; first < num_panels; first += panels_at_once)
      for (int64_t t = 0; t < kStripTiles && strip[t].size() > 0; ++t)
        for (int64_t p = first; p < std::min(first + panels_at_once, num_panels); ++p) {
          strip[t].score(panels, p, scores);
          exclusions.apply(entries[p], first_panel + p, strip[t], -kInfinity, scores);
          const int64_t n = tile.band(scores, strip[t].size(), &low[p * lanes], &high[p * lanes],
                                      &above[p * lanes], places);
          for (int64_t i = 0; i < n; ++i)
            doubtful.add(t * tile.rows + (places[i] >> lanes_log2),
                         p * lanes + (places[i] & (lanes - 1)));
        }
    doubtful.for_each(
        dim, [&](int64_t i) { return source_row(strip[i / tile.rows].ids()[i % tile.rows], copy); },
        [&](int64_t i) { return query(first_query + i); },
        [&](const float* item, int64_t i, float score) {
          const float target = target_scores[first_query + i];
          if (std::fabs(score - target) <= rounding[i]) {
            const float* row = query(first_query + i);
            simd().tiles->chain(item, &row, 1, dim, &score);
          }
          above[i] += score > target;
          tied[i] += score == target;
        });
  }
  for (int64_t i = 0; i < num_queries; ++i) {
    counts.above[first_query + i] += above[i];
    counts.tied[first_query + i] += tied[i];
  }
}

}  // namespace rl4rec
