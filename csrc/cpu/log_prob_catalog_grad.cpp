// The gradients of log_prob_catalog, both from one pass over the scores.
//
// With w[b, i] the derivative with respect to the score of query b and item i, they are w times the
// items and the transpose of w times the queries. A block of w at a time is computed from scores,
// and multiplied by the kernels that score tiles, whose sums have a fixed order.
#include <cstring>

#include "cpu/exclusions.h"
#include "cpu/softmax.h"
#include "cpu/tuning.h"

namespace rl4rec {
namespace {

constexpr int64_t kBlockItems = 384, kBlockQueries = 512;  // of a block of w: every tile divides it
// Threads share ranges of items. Each has its own sums for the queries, which are added in order.
constexpr int64_t kMaxRanges = 16;
constexpr int64_t kPadding = 16;  // rows a power of two apart would share places of the cache

int64_t divide_up(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

float* floats(const AlignedWords& words) { return reinterpret_cast<float*>(words.get()); }

bool is_finite(const float* values, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t special = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    special |= (bits & kExponent) == kExponent;
  }
  return special == 0;
}

// The arguments of a call, and what all threads read.
struct Problem {
  Problem(const Catalog& catalog, const Embeddings& queries, const Exclusions& exclusions,
          const std::vector<int64_t>& targets, double temperature)
      : catalog(catalog),
        queries(queries),
        exclusions(exclusions),
        targets(targets),
        scale(static_cast<float>(kLog2E / temperature)),
        product(level().wide[kFloat]),
        dim_panels(divide_up(queries.dim, product.lanes)),
        dim_rows(divide_up(queries.dim, product.rows) * product.rows),
        query_sums(divide_up(queries.rows, product.lanes) * product.lanes * dim_rows),
        references(divide_up(queries.rows, kMaxLanes) * kMaxLanes),
        factors(references.size()),
        target_weights(references.size()),
        panels(catalog, queries) {
    panels.pack(0, queries.rows);
  }

  // Packs the queries of every block with the values of a dimension in one lane.
  void pack_queries() {
    const int64_t lanes = product.lanes, width = product.vector_lanes;
    query_panels = make_words(queries.rows * dim_panels * lanes);
    parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
      std::vector<float> row(queries.padded_dim() + lanes);
      for (int64_t q = begin; q < end; ++q) {
        queries.copy_row(q, row.data());
        const int64_t first = q / kBlockQueries * kBlockQueries;
        const int64_t words = std::min(first + kBlockQueries, queries.rows) - first;
        float* to = floats(query_panels) + first * dim_panels * lanes;
        for (int64_t v = 0; v < dim_panels * lanes / width; ++v)
          std::copy_n(&row[v * width], width, to + (v * words + q - first) * width);
      }
    });
  }

  const Catalog& catalog;
  const Embeddings& queries;
  const Exclusions& exclusions;
  const std::vector<int64_t>& targets;
  const float scale;
  const TileKernels& product;
  const int64_t dim_panels, dim_rows;
  const int64_t query_sums;  // how many: [panel, dimension, lane]
  // The derivatives of the scores are factor * e^((score - reference) / temperature) for
  // competitors, and the target weights for targets.
  std::vector<float> references, factors, target_weights;
  Panels panels;
  AlignedWords query_panels;
};

// What one thread needs for the gradients of a range of items.
class Gradients {
 public:
  // `grad_table` is null if it is not asked for.
  Gradients(const Problem& problem, bool needs_query, const Tensor* grad_table)
      : problem_(problem),
        catalog_(problem.catalog),
        items_(problem.catalog.items),
        product_(problem.product),
        grad_table_(grad_table),
        weight_rows_(make_words((kBlockItems + product_.rows) * kStride)),
        weight_panels_(make_words(kBlockItems * kBlockQueries)) {
    if (grad_table)
      item_sums_ = make_words((kBlockItems + product_.rows) * problem.dim_panels * product_.lanes);
    if (needs_query) columns_ = make_words(problem.dim_rows * (kBlockItems + kPadding));
  }

  // `query_sums` begin as 0, and are null if they are not asked for.
  void compute(int64_t begin, int64_t end, float* query_sums) {
    query_sums_ = query_sums;
    const int64_t num_queries = problem_.queries.rows;
    for (begin_ = begin; begin_ < end; begin_ = end_) {
      end_ = std::min(begin_ + kBlockItems, end);
      if (query_sums_) load_columns();
      for (first_ = 0; first_ < num_queries; first_ = last_) {
        last_ = std::min(first_ + kBlockQueries, num_queries);
        weigh();
        for (int64_t q = first_; q < last_; ++q)
          if (begin_ <= problem_.targets[q] && problem_.targets[q] < end_)
            store_weights(problem_.targets[q], q, &problem_.target_weights[q], 1);
        if (query_sums_) add_items();
        if (grad_table_) add_queries();
      }
      for (int64_t i = 0; grad_table_ && i < num_items(); ++i)
        store_row(*grad_table_, begin_ + i,
                  floats(item_sums_) + i * problem_.dim_panels * product_.lanes, items_.dim);
    }
  }

 private:
  static constexpr int64_t kStride = kBlockQueries + kPadding;

  int64_t num_items() const { return end_ - begin_; }

  // Where w of an item and queries of a vector are, in panels of queries.
  float* panel_at(int64_t item, int64_t query) const {
    const int64_t width = product_.vector_lanes, vector = (query - first_) / width;
    return floats(weight_panels_) + (vector * num_items() + item - begin_) * width +
           (query - first_) % width;
  }

  void store_weights(int64_t item, int64_t query, const float* weights, int64_t n) {
    std::memcpy(floats(weight_rows_) + (item - begin_) * kStride + query - first_, weights, 4 * n);
    const int64_t width = product_.vector_lanes;
    for (int64_t l = 0; l < n; l += width)
      std::memcpy(panel_at(item, query + l), weights + l, 4 * std::min(width, n - l));
  }

  // Computes a block of w, but for the targets.
  void weigh() {
    const int64_t lanes = catalog_.tile.lanes, num_panels = divide_up(last_ - first_, lanes);
    const auto kernel = level().softmax.lanes[__builtin_ctzll(lanes)].weigh;
    if (catalog_.valid) {  // rows that are not loaded below
      std::memset(weight_rows_.get(), 0, 4 * kBlockItems * kStride);
      std::memset(weight_panels_.get(), 0, 4 * kBlockItems * kBlockQueries);
    }
    ItemTile tile(catalog_);
    float scores[kMaxTileScores];
    auto entries = problem_.exclusions.seek(first_, lanes, num_panels, begin_);
    int64_t item = begin_;
    while ((item = tile.load(item, end_)), tile.size() > 0) {
      for (int64_t p = 0; p < num_panels; ++p) {
        const int64_t query = first_ + p * lanes, n = std::min(lanes, last_ - query);
        tile.score(problem_.panels, query / lanes, scores);
        kernel(scores, tile.size(), problem_.scale, &problem_.references[query],
               &problem_.factors[query]);
        problem_.exclusions.apply(entries[p], query, lanes, tile, 0.0f, scores);
        for (int64_t r = 0; r < tile.size(); ++r)
          store_weights(tile.ids()[r], query, scores + r * lanes, n);
      }
    }
  }

  // Loads the block's items with the values of one dimension side by side. Rows that are not finite
  // stay 0: they may be excluded for some queries.
  void load_columns() {
    const int64_t stride = kBlockItems + kPadding, dim = items_.dim, padded = items_.padded_dim();
    special_.clear();
    std::vector<float> rows(kPadding * padded);
    for (int64_t i = 0; i < num_items(); i += kPadding) {
      for (int64_t j = 0; j < kPadding; ++j) {
        float* row = &rows[j * padded];
        if (i + j < num_items()) {
          items_.copy_row(begin_ + i + j, row);
          if (is_finite(row, dim)) continue;
          if (catalog_.is_valid(begin_ + i + j)) special_.push_back(begin_ + i + j);
        }
        std::fill_n(row, dim, 0.0f);
      }
      for (int64_t d = 0; d < dim; ++d)
        for (int64_t j = 0; j < kPadding; ++j)
          floats(columns_)[d * stride + i + j] = rows[j * padded + d];
    }
  }

  // Adds w times the items to the sums of the queries.
  void add_items() {
    const int64_t lanes = product_.lanes, rows = product_.rows, stride = kBlockItems + kPadding;
    float products[kMaxTileScores];
    std::vector<float> row(items_.padded_dim());
    for (int64_t first = first_; first < last_; first += lanes) {
      const auto* weights = weight_panels_.get() + (first - first_) * num_items();
      float* sums = query_sums_ + first * problem_.dim_rows;
      for (int64_t d = 0; d < problem_.dim_rows; d += rows) {
        product_.score(weights, columns_.get() + d * stride, 4 * stride, num_items(), {}, products);
        for (int64_t i = 0; i < rows * lanes; ++i) sums[d * lanes + i] += products[i];
      }
      for (const int64_t item : special_) {
        items_.copy_row(item, row.data());
        for (int64_t q = first; q < std::min(first + lanes, last_); ++q) {
          const float weight = *panel_at(item, q);
          for (int64_t d = 0; weight != 0.0f && d < items_.dim; ++d)
            sums[d * lanes + q % lanes] += weight * row[d];
        }
      }
    }
  }

  // Adds w's transpose times the queries to the sums of the items.
  void add_queries() {
    const int64_t lanes = product_.lanes, rows = product_.rows, words = last_ - first_;
    const int64_t sums_stride = problem_.dim_panels * lanes;
    float products[kMaxTileScores];
    for (int64_t panel = 0; panel < problem_.dim_panels; ++panel) {
      const auto* values =
          problem_.query_panels.get() + (first_ * problem_.dim_panels + panel * words) * lanes;
      for (int64_t i = 0; i < num_items(); i += rows) {
        product_.score(values, weight_rows_.get() + i * kStride, 4 * kStride, words, {}, products);
        for (int64_t r = 0; r < rows; ++r) {
          float* sums = floats(item_sums_) + (i + r) * sums_stride + panel * lanes;
          for (int64_t l = 0; l < lanes; ++l)
            sums[l] = products[r * lanes + l] + (first_ > 0 ? sums[l] : 0.0f);
        }
      }
    }
  }

  const Problem& problem_;
  const Catalog& catalog_;
  const Embeddings& items_;
  const TileKernels& product_;
  float* query_sums_ = nullptr;
  const Tensor* const grad_table_;
  AlignedWords weight_rows_, weight_panels_;  // w, by item and by panel of queries
  AlignedWords columns_, item_sums_;
  std::vector<int64_t> special_;                        // rows of the block that are not finite
  int64_t begin_ = 0, end_ = 0, first_ = 0, last_ = 0;  // the items and queries of the block
};

void compute(Problem& problem, const Tensor* grad_query, const Tensor* grad_table) {
  const int64_t num_items = problem.catalog.items.rows, lanes = problem.product.lanes;
  const int64_t rows = divide_up(divide_up(num_items, kMaxRanges), kBlockItems) * kBlockItems;
  const int64_t num_ranges = divide_up(num_items, std::max<int64_t>(1, rows));
  if (grad_table) problem.pack_queries();
  const AlignedWords sums = make_words(grad_query ? num_ranges * problem.query_sums : 0);
  parallel_for(0, num_ranges, 1, [&](int64_t begin, int64_t end) {
    const TileSession session;
    Gradients gradients(problem, grad_query != nullptr, grad_table);
    for (int64_t range = begin; range < end; ++range)
      gradients.compute(range * rows, std::min((range + 1) * rows, num_items),
                        grad_query ? floats(sums) + range * problem.query_sums : nullptr);
  });
  if (!grad_query) return;
  parallel_for(0, problem.queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    std::vector<float> row(problem.queries.dim);
    for (int64_t q = begin; q < end; ++q) {
      std::fill(row.begin(), row.end(), 0.0f);
      for (int64_t range = 0; range < num_ranges; ++range) {
        const float* own = floats(sums) + range * problem.query_sums +
                           q / lanes * lanes * problem.dim_rows + q % lanes;
        for (int64_t d = 0; d < problem.queries.dim; ++d) row[d] += own[d * lanes];
      }
      store_row(*grad_query, q, row.data(), problem.queries.dim);
    }
  });
}

// A gradient that is not needed has no rows.
std::tuple<Tensor, Tensor> log_prob_catalog_grad(const Tensor& grad, const Tensor& log_probs,
                                                 const Tensor& normalizer, const Tensor& query,
                                                 const Tensor& table, const Tensor& target_ids,
                                                 const OptionalTensor& exclude,
                                                 const OptionalTensor& exclude_offsets,
                                                 const OptionalTensor& valid, double temperature,
                                                 bool needs_query, bool needs_table) {
  const Embeddings queries(query, "query");
  const Catalog catalog(table, std::nullopt, valid, queries);
  const std::vector<int64_t> targets = read_targets(target_ids, catalog, queries.rows, false);
  const Exclusions exclusions(catalog, queries.rows, targets.data(), exclude, exclude_offsets);
  const auto check_rows = [&](const Tensor& tensor, ScalarType type, int64_t dims,
                              const char* name) {
    check(tensor.is_cpu() && tensor.scalar_type() == type && tensor.dim() == dims &&
              tensor.size(0) == queries.rows && (dims == 1 || tensor.size(1) == 2),
          name, " must have one row per query, as log_prob_catalog returns it");
    return torch::stable::contiguous(tensor);
  };
  const Tensor grads = check_rows(grad, ScalarType::Float, 1, "grad");
  const Tensor found = check_rows(log_probs, ScalarType::Float, 1, "log_probs");
  const Tensor sums = check_rows(normalizer, ScalarType::Double, 2, "normalizer");

  Problem problem(catalog, queries, exclusions, targets, temperature);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const double slope = grads.const_data_ptr<float>()[q] / temperature;
    const double* sum = sums.const_data_ptr<double>() + 2 * q;
    problem.references[q] = static_cast<float>(sum[0]);
    problem.factors[q] = static_cast<float>(-slope * std::exp(-sum[1]));
    const double log_prob = found.const_data_ptr<float>()[q];
    problem.target_weights[q] = static_cast<float>(-slope * std::expm1(log_prob));
  }
  const auto make = [&](const Tensor& like, bool needed) {
    const int64_t rows = needed ? like.size(0) : 0;
    return queries.rows == 0 ? torch::stable::new_zeros(like, {rows, like.size(1)})
                             : torch::stable::new_empty(like, {rows, like.size(1)});
  };
  const Tensor grad_query = make(query, needs_query), grad_table = make(table, needs_table);
  if (queries.dim > 0)
    compute(problem, needs_query ? &grad_query : nullptr, needs_table ? &grad_table : nullptr);
  return {grad_query, grad_table};
}

RL4REC_OPERATOR(log_prob_catalog_grad,
                "(Tensor grad, Tensor log_probs, Tensor normalizer, Tensor query, Tensor table, "
                "Tensor targets, Tensor? exclude, Tensor? exclude_offsets, Tensor? valid, "
                "float temperature, bool needs_query, bool needs_table) -> "
                "(Tensor grad_query, Tensor grad_table)")

}  // namespace
}  // namespace rl4rec
