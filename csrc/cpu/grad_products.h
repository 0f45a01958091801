// The two products of the gradients of log_prob_catalog: a block of derivatives w of the scores
// times the items, and its transpose times the queries.
#pragma once

#include "cpu/catalog.h"

namespace rl4rec {

inline int64_t divide_up(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

inline float* floats(const AlignedWords& words) { return reinterpret_cast<float*>(words.get()); }

// What the threads of a call share. Products are computed in tiles of `rows` by `lanes`.
class ProductShape {
 public:
  ProductShape(const Embeddings& queries, bool needs_table);

  // Sums of queries are [panel of lanes queries, dim_rows, lane], those of items are [item,
  // sums_stride].
  int64_t num_query_sums() const { return divide_up(queries.rows, lanes) * lanes * dim_rows; }
  int64_t sums_stride() const { return dim_panels * lanes; }

  const Embeddings& queries;
  const bool is_split;  // by AMX, with two bfloat16 for each float
  const int64_t rows, lanes, vector_lanes;
  const int64_t dim_rows, dim_panels;
  // The queries of every block with the values of a dimension in one lane. Split queries have two
  // parts.
  AlignedWords query_panels[2];

 private:
  void pack();
  void pack_split();
};

// What one thread needs. A block has up to kItems items and kQueries queries, which every tile
// divides.
class GradProducts {
 public:
  static constexpr int64_t kItems = 384, kQueries = 256;

  GradProducts(const ProductShape& shape, const Catalog& catalog, bool needs_query,
               bool needs_table);

  // The block's w, by item.
  float* weights(int64_t item) { return floats(weights_) + item * kStride; }
  // The sums of its items.
  const float* item_sums(int64_t item) const {
    return floats(item_sums_) + item * shape_.sums_stride();
  }
  // Begins with the items [begin, end), whose sums are 0. Those that are not finite, which may be
  // excluded for some queries, are left to `special`.
  void load_items(int64_t begin, int64_t end);
  // Adds the products of one weight, exactly.
  void add_pair(int64_t item, int64_t query, float weight, float* query_sums);
  // Adds the products with w for the queries [first, last) to the sums of queries, unless that is
  // null, and to those of items.
  void add(int64_t first, int64_t last, float* query_sums);

 private:
  static constexpr int64_t kPadding = 32;  // rows a power of two apart would share cache sets
  static constexpr int64_t kStride = kQueries + kPadding, kColumnStride = kItems + kPadding;

  int64_t num_items() const { return end_ - begin_; }
  void load_columns();
  void split_weights(int64_t num_queries);
  void pack_weights(int64_t num_queries);
  void add_items(int64_t panel, float* sums);
  void add_queries(int64_t first, int64_t num_queries);
  void add_special(int64_t first, int64_t last, float* query_sums);

  const ProductShape& shape_;
  const Catalog& catalog_;
  const bool needs_query_, needs_table_;
  // To one part: gradients are rounded to bfloat16 themselves, and large weights are not in w.
  const bool rounds_weights_;
  int64_t begin_ = 0, end_ = 0;
  AlignedWords weights_, item_sums_;
  AlignedWords weight_rows_[2];    // the parts of w, by item
  AlignedWords weight_panels_[2];  // w by vector of queries; its parts in words of two items
  AlignedWords columns_, column_parts_[2];  // items, with the values of one dimension side by side
  std::vector<int64_t> special_;
};

}  // namespace rl4rec
