#include "cpu/refine.h"

#include <cmath>
#include <limits>

namespace rl4rec {
namespace {

constexpr int64_t kGroupTiles = 64;  // tiles that share one bound

// Rounds up to float32, with room for the roundings of the few operations on a bound.
float up(double value) { return static_cast<float>(value * (1 + 1e-6)) + 1e-37f; }

// The queries of a block against which an item's quantized score decides nothing.
struct Doubtful {
  explicit Doubtful(int64_t num_queries)
      : queries(num_queries), rows(num_queries + kLookahead), scores(num_queries) {}

  void add(int64_t i, const float* row) {
    queries[size] = i;
    rows[size++] = row;
  }

  int64_t size = 0;
  std::vector<int64_t> queries;
  std::vector<const void*> rows;
  std::vector<float> scores;
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
    float* query = &queries_[q * padded_dim_];
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
  constexpr int64_t kAtOnce = 16;
  const Embeddings& source = source_.items;
  const bool copied = source.storage != kFloat32;
  std::vector<float> copies(copied ? kAtOnce * padded_dim_ : 0);
  const float* rows[kAtOnce];
  for (int64_t i = 0; i < n; i += kAtOnce) {
    const int64_t m = std::min(kAtOnce, n - i);
    for (int64_t j = 0; j < m; ++j) {
      const int64_t id = first + items[i + j];
      if (copied) source.copy_row(id, &copies[j * padded_dim_]);
      rows[j] = copied ? &copies[j * padded_dim_] : static_cast<const float*>(source.row(id));
    }
    simd().tiles->chain(query(q), rows, m, source.dim, scores + i);
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
  const int64_t num_panels = panels.size(), first_panel = first_query / lanes;
  const int lanes_log2 = __builtin_ctzll(lanes);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // Lanes without a query find nothing.
  std::vector<float> low(num_panels * lanes, kInfinity), high(num_panels * lanes, kInfinity);
  std::vector<int32_t> above(num_panels * lanes), tied(num_panels * lanes);
  std::vector<const Exclusions::Entry*> entries(num_panels);
  for (int64_t p = 0; p < num_panels; ++p) entries[p] = exclusions.from(first_panel + p, begin);

  std::vector<Doubtful> doubtful(tile.rows, Doubtful(num_queries));
  std::vector<float> copy(padded_dim_);
  ItemTile items(quantized_);
  float scores[kMaxTileRows * kMaxLanes];
  uint32_t places[kMaxTileRows * kMaxLanes + kMaxLanes];
  while (begin < end) {
    const int64_t group_end = std::min(begin + kGroupTiles * tile.rows, end);
    float norm = 0.0f, error = 0.0f;
    for (int64_t id = begin; id < group_end; ++id) {
      norm = std::max(norm, quantized_.norm(id));
      error = std::max(error, quantized_.error(id));
    }
    for (int64_t i = 0; i < num_queries; ++i) {
      const float target = target_scores[first_query + i];
      const float margin = bound(first_query + i, norm, error, target);
      low[i] = target - margin;
      high[i] = target + margin;
    }
    while ((begin = items.load(begin, group_end)), items.size() > 0) {
      for (int64_t p = 0; p < num_panels; ++p) {
        items.score(panels, p, scores);
        prefetch_part(quantized_, begin, p, num_panels);
        exclusions.apply(entries[p], first_panel + p, items, -kInfinity, scores);
        const int64_t n = tile.band(scores, items.size(), &low[p * lanes], &high[p * lanes],
                                    &above[p * lanes], places);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t query = p * lanes + (places[i] & (lanes - 1));
          doubtful[places[i] >> lanes_log2].add(query, this->query(first_query + query));
        }
        prefetch_part(source_, begin, p, num_panels);
      }
      for (int64_t r = 0; r < items.size(); ++r) {
        Doubtful& pairs = doubtful[r];
        const int64_t n = pairs.size;
        if (n == 0) continue;
        pairs.size = 0;
        const float* item = source_row(items.ids()[r], copy);
        std::fill_n(&pairs.rows[n], kLookahead, pairs.rows[n - 1]);
        simd().dot_rows[kFloat32](item, pairs.rows.data(), n, dim, pairs.scores.data());
        for (int64_t j = 0; j < n; ++j) {
          const int64_t i = pairs.queries[j];
          const float target = target_scores[first_query + i];
          float score = pairs.scores[j];
          if (std::fabs(score - target) <= rounding(first_query + i, norm, error)) {
            const float* row = query(first_query + i);
            simd().tiles->chain(item, &row, 1, dim, &score);
          }
          above[i] += score > target;
          tied[i] += score == target;
        }
      }
    }
  }
  for (int64_t i = 0; i < num_queries; ++i) {
    counts.above[first_query + i] += above[i];
    counts.tied[first_query + i] += tied[i];
  }
}

}  // namespace rl4rec
