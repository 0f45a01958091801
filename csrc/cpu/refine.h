// Exact counts at nearly the price of a quantized table.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/candidates.h"
#include "cpu/catalog.h"

namespace rl4rec {

// Scores of quantized items bound the scores of the items themselves. With a hat on what is
// rounded, e for rounding errors, u = 2^-24 and g = D u / (1 - D u) (Higham 2002, section 3.1):
//
//   |fl(q.t) - fl(q^.t^)| <= |q.t - q^.t^| + |fl(q.t) - q.t| + |fl(q^.t^) - q^.t^|
//                         <= |q - q^| |t^| + |q| |t - t^|          (Cauchy-Schwarz, norms)
//                            + g |q| (|t^| + |t - t^|) + g' (|q| + |q - q^|) |t^|
//
// where g' counts the additions of the quantized score and its scaling. So an item whose quantized
// score differs from the target's score by more than this bound is above or below it for sure; the
// others are scored again, exactly. Underflow is covered by a constant.
class Refinement {
 public:
  // `quantized` was made of `source` by quantize_table, which saw to it that all is finite.
  Refinement(const Catalog& quantized, const Embeddings& queries, const Tensor& source);

  const Catalog& source() const { return source_; }

  // Adds to `counts` what a block of queries (in `panels`) finds among the items begin ... end - 1.
  void count_piece(const Exclusions& exclusions, const Panels& panels, int64_t first_query,
                   int64_t num_queries, int64_t begin, int64_t end, const float* target_scores,
                   Counts& counts) const;

  // How far a quantized score may be off from the float32 `score`: for query q and items of norm
  // and error at most these.
  float bound(int64_t q, float norm, float error, float score) const {
    return slope_norm_[q] * norm + slope_error_[q] * error + constant_[q] +
           4e-7f * std::fabs(score);  // of the sums and differences with it
  }
  // The same for any score that such items may have.
  float bound_of_any(int64_t q, float norm, float error) const {
    return bound(q, norm, error, slope_error_[q] * (norm + error));
  }
  // How far the scores of dot_rows and of a tile may differ for one pair.
  float rounding(int64_t q, float norm, float error) const {
    return rounding_[q] * (norm + error) + constant_[q];
  }
  // The scores of one query and the rows first + items[i] of the source, as rank_catalog has them.
  void score(int64_t q, int64_t first, const int64_t* items, int64_t n, float* scores) const;

 private:
  const float* query(int64_t q) const { return queries_.data() + q * padded_dim_; }
  // An item as float32, padded to whole steps; `copy` is used where it is not stored so.
  const float* source_row(int64_t id, std::vector<float>& copy) const;

  const Catalog& quantized_;
  const Catalog source_;
  int64_t padded_dim_;
  std::vector<float> queries_;  // as float32
  std::vector<float> slope_norm_, slope_error_, rounding_, constant_;
};

}  // namespace rl4rec
