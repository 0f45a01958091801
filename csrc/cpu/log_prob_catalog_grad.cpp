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

class Gradients {
 public:
  Gradients(const Catalog& catalog, const Embeddings& queries, const Exclusions& exclusions,
            const std::vector<int64_t>& targets, double temperature)
      : catalog_(catalog),
        items_(catalog.items),
        queries_(queries),
        exclusions_(exclusions),
        targets_(targets),
        scale_(static_cast<float>(kLog2E / temperature)),
        product_(level().wide[kFloat]),
        dim_panels_(divide_up(queries.dim, product_.lanes)),
        dim_rows_(divide_up(queries.dim, product_.rows) * product_.rows),
        panels_(catalog, queries) {}

  // The derivatives of the scores are factor * e^((score - reference) / temperature) for
  // competitors, and those of `target_weights` for targets. Null for a gradient that is not asked
  // for.
  void compute(const std::vector<float>& references, const std::vector<float>& factors,
               const std::vector<float>& target_weights, const Tensor* grad_query,
               const Tensor* grad_table) {
    const int64_t lanes = product_.lanes;
    panels_.pack(0, queries_.rows);
    weight_rows_ = make_words((kBlockItems + product_.rows) * kStride);
    weight_panels_ = make_words(kBlockItems * kBlockQueries);
    if (grad_table) {
      pack_queries();
      item_sums_ = make_words((kBlockItems + product_.rows) * dim_panels_ * lanes);
    }
    if (grad_query) {
      columns_ = make_words(dim_rows_ * (kBlockItems + kPadding));
      query_sums_ = make_words(divide_up(queries_.rows, lanes) * lanes * dim_rows_);
    }
    for (begin_ = 0; begin_ < items_.rows; begin_ = end_) {
      end_ = std::min(begin_ + kBlockItems, items_.rows);
      if (grad_query) load_columns();
      for (first_ = 0; first_ < queries_.rows; first_ = last_) {
        last_ = std::min(first_ + kBlockQueries, queries_.rows);
        weigh(references, factors);
        for (int64_t q = first_; q < last_; ++q)
          if (begin_ <= targets_[q] && targets_[q] < end_)
            store_weights(targets_[q], q, &target_weights[q], 1);
        if (grad_query) add_items();
        if (grad_table) add_queries(*grad_table);
      }
    }
    if (grad_query) store_queries(*grad_query);
  }

 private:
  static constexpr int64_t kStride = kBlockQueries + kPadding;

  int64_t num_items() const { return end_ - begin_; }

  // Where w of an item and queries of a vector are, in panels of queries.
  float* panel_at(int64_t item, int64_t query) const {
    const int64_t vector = (query - first_) / product_.vector_lanes;
    return floats(weight_panels_) + (vector * num_items() + item - begin_) * product_.vector_lanes +
           (query - first_) % product_.vector_lanes;
  }

  void store_weights(int64_t item, int64_t query, const float* weights, int64_t n) {
    std::memcpy(floats(weight_rows_) + (item - begin_) * kStride + query - first_, weights, 4 * n);
    const int64_t width = product_.vector_lanes;
    for (int64_t l = 0; l < n; l += width)
      std::memcpy(panel_at(item, query + l), weights + l, 4 * std::min(width, n - l));
  }

  // Computes a block of w, but for the targets.
  void weigh(const std::vector<float>& references, const std::vector<float>& factors) {
    const int64_t lanes = catalog_.tile.lanes, rows = catalog_.tile.rows;
    const int64_t num_panels = divide_up(last_ - first_, lanes);
    const auto kernel = level().softmax.lanes[__builtin_ctzll(lanes)].weigh;
    if (catalog_.valid) {  // rows that are not loaded below
      std::memset(weight_rows_.get(), 0, 4 * kBlockItems * kStride);
      std::memset(weight_panels_.get(), 0, 4 * kBlockItems * kBlockQueries);
    }
    parallel_for(0, divide_up(num_items(), rows), 1, [&](int64_t begin, int64_t end) {
      const TileSession session;
      ItemTile tile(catalog_);
      float scores[kMaxTileScores];
      int64_t item = begin_ + begin * rows;
      const int64_t stop = std::min(begin_ + end * rows, end_);
      auto entries = exclusions_.seek(first_, lanes, num_panels, item);
      while ((item = tile.load(item, stop)), tile.size() > 0) {
        for (int64_t p = 0; p < num_panels; ++p) {
          const int64_t query = first_ + p * lanes;
          tile.score(panels_, query / lanes, scores);
          kernel(scores, tile.size(), scale_, &references[query], &factors[query]);
          exclusions_.apply(entries[p], query, lanes, tile, 0.0f, scores);
          for (int64_t r = 0; r < tile.size(); ++r)
            store_weights(tile.ids()[r], query, scores + r * lanes, std::min(lanes, last_ - query));
        }
      }
    });
  }

  // Loads the block's items with the values of one dimension side by side. Rows that are not finite
  // stay 0: they may be excluded for some queries.
  void load_columns() {
    const int64_t stride = kBlockItems + kPadding, dim = items_.dim;
    special_.clear();
    std::vector<char> is_special(num_items());
    parallel_for(0, divide_up(num_items(), kPadding), 1, [&](int64_t begin, int64_t end) {
      const int64_t padded = items_.padded_dim();
      std::vector<float> rows(kPadding * padded);
      for (int64_t i = begin * kPadding; i < end * kPadding; i += kPadding) {
        for (int64_t j = 0; j < kPadding; ++j) {
          float* row = &rows[j * padded];
          if (i + j < num_items()) {
            items_.copy_row(begin_ + i + j, row);
            if (is_finite(row, dim)) continue;
            is_special[i + j] = catalog_.is_valid(begin_ + i + j);
          }
          std::fill_n(row, dim, 0.0f);
        }
        for (int64_t d = 0; d < dim; ++d)
          for (int64_t j = 0; j < kPadding; ++j)
            floats(columns_)[d * stride + i + j] = rows[j * padded + d];
      }
    });
    for (int64_t i = 0; i < num_items(); ++i)
      if (is_special[i]) special_.push_back(begin_ + i);
  }

  // Adds w times the items to the sums of the queries [panel, dimension, lane].
  void add_items() {
    const int64_t lanes = product_.lanes, rows = product_.rows, stride = kBlockItems + kPadding;
    parallel_for(0, divide_up(last_ - first_, lanes), 1, [&](int64_t begin, int64_t end) {
      float products[kMaxTileScores];
      std::vector<float> row(items_.padded_dim());
      for (int64_t p = begin; p < end; ++p) {
        const auto* weights = weight_panels_.get() + p * lanes * num_items();
        float* sums = floats(query_sums_) + (first_ / lanes + p) * lanes * dim_rows_;
        for (int64_t d = 0; d < dim_rows_; d += rows) {
          product_.score(weights, columns_.get() + d * stride, 4 * stride, num_items(), {},
                         products);
          for (int64_t i = 0; i < rows * lanes; ++i) sums[d * lanes + i] += products[i];
        }
        for (const int64_t item : special_) {
          items_.copy_row(item, row.data());
          for (int64_t q = first_ + p * lanes; q < std::min(first_ + (p + 1) * lanes, last_); ++q) {
            const float weight = *panel_at(item, q);
            for (int64_t d = 0; weight != 0.0f && d < items_.dim; ++d)
              sums[d * lanes + q % lanes] += weight * row[d];
          }
        }
      }
    });
  }

  // Adds w's transpose times the queries to the sums of the items, and stores these after the last
  // queries.
  void add_queries(const Tensor& grad_table) {
    const int64_t lanes = product_.lanes, rows = product_.rows, words = last_ - first_;
    const int64_t sums_stride = dim_panels_ * lanes;
    parallel_for(0, divide_up(num_items(), rows), 1, [&](int64_t begin, int64_t end) {
      float products[kMaxTileScores];
      for (int64_t panel = 0; panel < dim_panels_; ++panel) {
        const auto* values = query_panels_.get() + (first_ * dim_panels_ + panel * words) * lanes;
        for (int64_t i = begin * rows; i < end * rows; i += rows) {
          product_.score(values, weight_rows_.get() + i * kStride, 4 * kStride, words, {},
                         products);
          for (int64_t r = 0; r < rows; ++r) {
            float* sums = floats(item_sums_) + (i + r) * sums_stride + panel * lanes;
            for (int64_t l = 0; l < lanes; ++l)
              sums[l] = products[r * lanes + l] + (first_ > 0 ? sums[l] : 0.0f);
          }
        }
      }
      if (last_ < queries_.rows) return;
      for (int64_t i = begin * rows; i < std::min(end * rows, num_items()); ++i)
        store_row(grad_table, begin_ + i, floats(item_sums_) + i * sums_stride, items_.dim);
    });
  }

  // Packs the queries of every block with the values of a dimension in one lane.
  void pack_queries() {
    const int64_t lanes = product_.lanes, width = product_.vector_lanes;
    query_panels_ = make_words(queries_.rows * dim_panels_ * lanes);
    parallel_for(0, queries_.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
      std::vector<float> row(queries_.padded_dim() + lanes);
      for (int64_t q = begin; q < end; ++q) {
        queries_.copy_row(q, row.data());
        const int64_t first = q / kBlockQueries * kBlockQueries;
        const int64_t words = std::min(first + kBlockQueries, queries_.rows) - first;
        float* to = floats(query_panels_) + first * dim_panels_ * lanes;
        for (int64_t v = 0; v < dim_panels_ * lanes / width; ++v)
          std::copy_n(&row[v * width], width, to + (v * words + q - first) * width);
      }
    });
  }

  void store_queries(const Tensor& grad_query) {
    const int64_t lanes = product_.lanes;
    parallel_for(0, queries_.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
      std::vector<float> row(queries_.dim);
      for (int64_t q = begin; q < end; ++q) {
        const float* sums = floats(query_sums_) + q / lanes * lanes * dim_rows_ + q % lanes;
        for (int64_t d = 0; d < queries_.dim; ++d) row[d] = sums[d * lanes];
        store_row(grad_query, q, row.data(), queries_.dim);
      }
    });
  }

  const Catalog& catalog_;
  const Embeddings &items_, &queries_;
  const Exclusions& exclusions_;
  const std::vector<int64_t>& targets_;
  const float scale_;
  const TileKernels& product_;
  const int64_t dim_panels_, dim_rows_;
  Panels panels_;
  AlignedWords weight_rows_, weight_panels_;  // w, by item and by panel of queries
  AlignedWords query_panels_, columns_;       // the other factors
  AlignedWords query_sums_, item_sums_;
  std::vector<int64_t> special_;                        // rows of the block that are not finite
  int64_t begin_ = 0, end_ = 0, first_ = 0, last_ = 0;  // the items and queries of the block
};

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

  const int64_t padded = divide_up(queries.rows, kMaxLanes) * kMaxLanes;
  std::vector<float> references(padded), factors(padded), target_weights(padded);
  for (int64_t q = 0; q < queries.rows; ++q) {
    const double slope = grads.const_data_ptr<float>()[q] / temperature;
    const double* sum = sums.const_data_ptr<double>() + 2 * q;
    references[q] = static_cast<float>(sum[0]);
    factors[q] = static_cast<float>(-slope * std::exp(-sum[1]));
    const double log_prob = found.const_data_ptr<float>()[q];
    target_weights[q] = static_cast<float>(-slope * std::expm1(log_prob));
  }
  const auto make = [&](const Tensor& like, bool needed) {
    const int64_t rows = needed ? like.size(0) : 0;
    return queries.rows == 0 ? torch::stable::new_zeros(like, {rows, like.size(1)})
                             : torch::stable::new_empty(like, {rows, like.size(1)});
  };
  const Tensor grad_query = make(query, needs_query), grad_table = make(table, needs_table);
  if (queries.dim > 0)
    Gradients(catalog, queries, exclusions, targets, temperature)
        .compute(references, factors, target_weights, needs_query ? &grad_query : nullptr,
                 needs_table ? &grad_table : nullptr);
  return {grad_query, grad_table};
}

RL4REC_OPERATOR(log_prob_catalog_grad,
                "(Tensor grad, Tensor log_probs, Tensor normalizer, Tensor query, Tensor table, "
                "Tensor targets, Tensor? exclude, Tensor? exclude_offsets, Tensor? valid, "
                "float temperature, bool needs_query, bool needs_table) -> "
                "(Tensor grad_query, Tensor grad_table)")

}  // namespace
}  // namespace rl4rec
