#include "cpu/grad_products.h"

#include <algorithm>
#include <cstring>

#include "cpu/tuning.h"

namespace rl4rec {
namespace {

bool is_finite_row(const float* values, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t special = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    special |= (bits & kExponent) == kExponent;
  }
  return special == 0;
}

int64_t round_up(int64_t n, int64_t multiple) { return divide_up(n, multiple) * multiple; }

uint16_t* halves(const AlignedWords& words) { return reinterpret_cast<uint16_t*>(words.get()); }

// Words of a panel's vector of queries, for a block of queries or items.
constexpr int64_t vector_words(int64_t block) { return block / 2 * kProductVector; }

}  // namespace

ProductShape::ProductShape(const Embeddings& queries, bool needs_table)
    : queries(queries),
      is_split(level().products.add_products != nullptr),
      rows(is_split ? kProductRows : level().wide[kFloat].rows),
      lanes(is_split ? kProductLanes : level().wide[kFloat].lanes),
      vector_lanes(is_split ? kProductVector : level().wide[kFloat].vector_lanes),
      dim_rows(round_up(queries.dim, rows)),
      dim_panels(divide_up(queries.dim, lanes)) {
  if (needs_table) is_split ? pack_split() : pack();
}

void ProductShape::pack() {
  query_panels[0] = make_words(queries.rows * sums_stride());
  parallel_for(0, queries.rows, kQueriesPerThread, [&](int64_t begin, int64_t end) {
    std::vector<float> row(queries.padded_dim() + lanes);
    for (int64_t q = begin; q < end; ++q) {
      queries.copy_row(q, row.data());
      const int64_t first = q / GradProducts::kQueries * GradProducts::kQueries;
      const int64_t words = std::min(first + GradProducts::kQueries, queries.rows) - first;
      float* to = floats(query_panels[0]) + first * sums_stride();
      for (int64_t v = 0; v < sums_stride() / vector_lanes; ++v)
        std::copy_n(&row[v * vector_lanes], vector_lanes,
                    to + (v * words + q - first) * vector_lanes);
    }
  });
}

void ProductShape::pack_split() {
  constexpr int64_t kVector = vector_words(GradProducts::kQueries);
  const int64_t block_words = sums_stride() / kProductVector * kVector;
  const int64_t num_blocks = divide_up(queries.rows, GradProducts::kQueries);
  for (AlignedWords& part : query_panels) part = make_words(num_blocks * block_words);
  parallel_for(0, divide_up(queries.rows, 2), kQueriesPerThread, [&](int64_t begin, int64_t end) {
    const int64_t padded = std::max(queries.padded_dim(), sums_stride());
    std::vector<float> two(2 * padded);
    for (int64_t pair = begin; pair < end; ++pair) {
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t q = 2 * pair + j;
        if (q < queries.rows)
          queries.copy_row(q, &two[j * padded]);
        else
          std::fill_n(&two[j * padded], padded, 0.0f);
      }
      const int64_t block = 2 * pair / GradProducts::kQueries;
      const int64_t to = block * block_words + pair % (GradProducts::kQueries / 2) * kProductVector;
      level().splits.split_pairs(two.data(), &two[padded], sums_stride(),
                                 query_panels[0].get() + to, query_panels[1].get() + to, kVector);
    }
  });
  if (queries.storage == kBFloat16) query_panels[1].reset();
}

GradProducts::GradProducts(const ProductShape& shape, const Catalog& catalog, bool needs_query,
                           bool needs_table)
    : shape_(shape),
      catalog_(catalog),
      needs_query_(needs_query),
      needs_table_(needs_table),
      rounds_weights_(shape.queries.storage == kBFloat16 && catalog.items.storage == kBFloat16),
      weights_(make_words((kItems + shape.rows) * kStride)) {
  if (needs_table) item_sums_ = make_words((kItems + shape.rows) * shape.sums_stride());
  if (!shape.is_split) {
    if (needs_query) columns_ = make_words(shape.dim_rows * kColumnStride);
    if (needs_query) weight_panels_[0] = make_words(kItems * kQueries);
    return;
  }
  for (int part = 0; part < 2; ++part) {
    weight_rows_[part] = make_words(kItems * kStride / 2);
    weight_panels_[part] = make_words(kQueries / kProductVector * vector_words(kItems));
    if (needs_query) column_parts_[part] = make_words(shape.dim_rows * kColumnStride / 2);
  }
}

void GradProducts::load_items(int64_t begin, int64_t end) {
  begin_ = begin;
  end_ = end;
  if (needs_table_)
    std::memset(item_sums_.get(), 0, 4 * (num_items() + shape_.rows) * shape_.sums_stride());
  if (needs_query_) load_columns();
}

void GradProducts::load_columns() {
  constexpr int64_t kAtOnce = 16;
  const Embeddings& items = catalog_.items;
  const int64_t dim = items.dim, padded = items.padded_dim();
  special_.clear();
  std::vector<float> rows(kAtOnce * padded);
  for (int64_t i = 0; i < round_up(num_items(), kProductStep); i += kAtOnce) {
    for (int64_t j = 0; j < kAtOnce; ++j) {
      float* row = &rows[j * padded];
      if (i + j < num_items()) {
        items.copy_row(begin_ + i + j, row);
        if (is_finite_row(row, dim)) continue;
        if (catalog_.is_valid(begin_ + i + j)) special_.push_back(begin_ + i + j);
      }
      std::fill_n(row, dim, 0.0f);
    }
    for (int64_t d = 0; d < dim; ++d) {
      float values[kAtOnce];
      for (int64_t j = 0; j < kAtOnce; ++j) values[j] = rows[j * padded + d];
      const int64_t to = d * kColumnStride + i;
      if (shape_.is_split)
        level().splits.split(values, kAtOnce, halves(column_parts_[0]) + to,
                             halves(column_parts_[1]) + to);
      else
        std::copy_n(values, kAtOnce, floats(columns_) + to);
    }
  }
}

void GradProducts::add(int64_t first, int64_t last, float* query_sums) {
  const int64_t num_queries = last - first;
  if (shape_.is_split)
    split_weights(num_queries);
  else if (query_sums)
    pack_weights(num_queries);
  for (int64_t panel = 0; query_sums && panel * shape_.lanes < num_queries; ++panel)
    add_items(panel, query_sums + (first + panel * shape_.lanes) * shape_.dim_rows);
  if (query_sums) add_special(first, last, query_sums);
  if (needs_table_) add_queries(first, num_queries);
}

void GradProducts::add_pair(int64_t item, int64_t query, float weight, float* query_sums) {
  const Embeddings &items = catalog_.items, &queries = shape_.queries;
  const void *item_row = items.row(item), *query_row = queries.row(query);
  const auto& add_rows = level().rows.add_rows;
  if (query_sums) {
    std::vector<float> product(items.padded_dim());
    add_rows[items.storage](product.data(), &weight, &item_row, 1, items.dim);
    float* sums = query_sums + query / shape_.lanes * shape_.lanes * shape_.dim_rows;
    for (int64_t d = 0; d < items.dim; ++d)
      sums[d * shape_.lanes + query % shape_.lanes] += product[d];
  }
  if (needs_table_)
    add_rows[queries.storage](floats(item_sums_) + (item - begin_) * shape_.sums_stride(), &weight,
                              &query_row, 1, queries.dim);
}

// Makes the vectors of w's panels.
void GradProducts::pack_weights(int64_t num_queries) {
  const int64_t width = shape_.vector_lanes;
  for (int64_t v = 0; v * width < num_queries; ++v)
    for (int64_t i = 0; i < num_items(); ++i)
      std::memcpy(floats(weight_panels_[0]) + (v * num_items() + i) * width, weights(i) + v * width,
                  4 * width);
}

// Makes the parts of w, by item and in panels, with zeros up to whole steps.
void GradProducts::split_weights(int64_t num_queries) {
  const int64_t n = round_up(num_queries, kProductStep);
  for (int64_t i = 0; i < round_up(num_items(), kProductStep); i += 2) {
    for (int64_t j = i; j < i + 2; ++j) {
      const int64_t used = j < num_items() ? num_queries : 0;
      std::fill_n(weights(j) + used, n - used, 0.0f);
      if (needs_table_)
        level().splits.split(weights(j), n, halves(weight_rows_[0]) + j * kStride,
                             halves(weight_rows_[1]) + j * kStride);
    }
    const int64_t to = i / 2 * kProductVector;
    if (needs_query_)
      level().splits.split_pairs(weights(i), weights(i + 1), n, weight_panels_[0].get() + to,
                                 weight_panels_[1].get() + to, vector_words(kItems));
  }
}

// Adds w times the items to the sums of a panel's queries.
void GradProducts::add_items(int64_t panel, float* sums) {
  const int64_t lanes = shape_.lanes, rows = shape_.rows;
  if (shape_.is_split) {
    const int64_t from = panel * lanes / kProductVector * vector_words(kItems);
    const uint32_t* parts[2] = {weight_panels_[0].get() + from, weight_panels_[1].get() + from};
    const bool is_exact = catalog_.items.storage == kBFloat16;
    for (int64_t d = 0; d < shape_.dim_rows; d += rows) {
      const uint16_t* columns[2] = {halves(column_parts_[0]) + d * kColumnStride,
                                    halves(column_parts_[1]) + d * kColumnStride};
      if (is_exact) columns[1] = nullptr;
      if (rounds_weights_) parts[1] = nullptr;
      level().products.add_products(columns, kColumnStride, parts, vector_words(kItems),
                                    round_up(num_items(), kProductStep), sums + d * lanes, lanes);
    }
    return;
  }
  float products[kMaxTileScores];
  const auto* weights = weight_panels_[0].get() + panel * lanes * num_items();
  for (int64_t d = 0; d < shape_.dim_rows; d += rows) {
    level().wide[kFloat].score(weights, columns_.get() + d * kColumnStride, 4 * kColumnStride,
                               num_items(), {}, products);
    for (int64_t i = 0; i < rows * lanes; ++i) sums[d * lanes + i] += products[i];
  }
}

void GradProducts::add_special(int64_t first, int64_t last, float* query_sums) {
  const Embeddings& items = catalog_.items;
  const int64_t lanes = shape_.lanes;
  std::vector<float> row(items.padded_dim());
  for (const int64_t item : special_) {
    items.copy_row(item, row.data());
    for (int64_t q = first; q < last; ++q) {
      const float weight = weights(item - begin_)[q - first];
      float* sums = query_sums + q / lanes * lanes * shape_.dim_rows + q % lanes;
      for (int64_t d = 0; weight != 0.0f && d < items.dim; ++d) sums[d * lanes] += weight * row[d];
    }
  }
}

// Adds w's transpose times the queries to the sums of the items.
void GradProducts::add_queries(int64_t first, int64_t num_queries) {
  const int64_t lanes = shape_.lanes, rows = shape_.rows, stride = shape_.sums_stride();
  if (shape_.is_split) {
    constexpr int64_t kVector = vector_words(kQueries);
    const int64_t from = first / kQueries * stride / kProductVector * kVector;
    for (int64_t i = 0; i < num_items(); i += rows)
      for (int64_t panel = 0; panel < shape_.dim_panels; ++panel) {
        const uint16_t* parts[2] = {halves(weight_rows_[0]) + i * kStride,
                                    halves(weight_rows_[1]) + i * kStride};
        const int64_t at = from + panel * lanes / kProductVector * kVector;
        if (rounds_weights_) parts[1] = nullptr;
        const uint32_t* second = shape_.query_panels[1].get();
        const uint32_t* queries[2] = {shape_.query_panels[0].get() + at,
                                      second ? second + at : nullptr};
        level().products.add_products(parts, kStride, queries, kVector,
                                      round_up(num_queries, kProductStep),
                                      floats(item_sums_) + i * stride + panel * lanes, stride);
      }
    return;
  }
  float products[kMaxTileScores];
  for (int64_t panel = 0; panel < shape_.dim_panels; ++panel) {
    const auto* values =
        shape_.query_panels[0].get() + first * stride + panel * num_queries * lanes;
    for (int64_t i = 0; i < num_items(); i += rows) {
      level().wide[kFloat].score(values, weights_.get() + i * kStride, 4 * kStride, num_queries, {},
                                 products);
      for (int64_t r = 0; r < rows; ++r) {
        float* sums = floats(item_sums_) + (i + r) * stride + panel * lanes;
        for (int64_t l = 0; l < lanes; ++l) sums[l] += products[r * lanes + l];
      }
    }
  }
}

}  // namespace rl4rec
