#include "cpu/screen.h"

#include <cmath>

namespace rl4rec {

Int8Copy::Int8Copy(const Tensor& values, const Tensor& row_stats, const Embeddings& source)
    : items(values, "values", /*with_int8=*/true),
      row_stats_owner(torch::stable::contiguous(row_stats)) {
  check(items.storage == kInt8 && items.rows == source.rows && items.dim == source.dim,
        "values must be int8 [", source.rows, ", ", source.dim, "], a copy of the table");
  check(row_stats.is_cpu() && row_stats.scalar_type() == ScalarType::Float &&
            row_stats.dim() == 2 && row_stats.size(0) == items.rows && row_stats.size(1) == 3,
        "row_stats must be float32 [", items.rows, ", 3] on the CPU");
  this->row_stats = row_stats_owner.const_data_ptr<float>();
}

bool Screen::set_query(const Embeddings& queries, int64_t row) {
  if (!copy_ || !level().dot_int8_rows || queries.dim > kMaxInt8Dim) return false;
  RowNorms norms;
  queries.to_int16(row, query_, &scale_, &norms);
  const double norm = double{norms.norm} + norms.error;
  if (!(norm < 1e18)) return false;
  // The bound of refine.h. `rounded` is more than what it calls g and g', and the factor more than
  // the roundings of these lines. Lanes of whole numbers are turned into floats, then added.
  const double dim = static_cast<double>(queries.dim), factor = 1 + 1e-6;
  const double rounded = (dim + 32) * 0x1p-23, lost = (dim + 1) * 0x1p-120;
  slope_norm_ = static_cast<float>(factor * (norms.error + 2 * rounded * norm + lost));
  slope_error_ = static_cast<float>(factor * norm * (1 + rounded));
  constant_ = static_cast<float>(factor * lost * (1 + norm));
  return true;
}

int64_t Screen::decide(float target_score, const Candidates& candidates, int64_t next) {
  const Embeddings& items = copy_->items;
  for (int64_t i = 0; i < kPrefetchInt8Rows + 3; ++i) {
    const int64_t id = next + i < candidates.count ? candidates.id(next + i) : -1;
    rows_[size_ + i] = 0 <= id && id < items.rows ? items.row(id) : rows_[size_ - 1];
  }
  level().dot_int8_rows(query_, rows_, size_, items.dim, scores_);
  // In local variables, which stay in registers.
  const float scale = scale_, slope_norm = slope_norm_, slope_error = slope_error_;
  const float constant = constant_;
  const int64_t size = size_;
  int64_t above = 0, undecided = 0;
  for (int64_t i = 0; i < size; ++i) {
    const float* stats = copy_->row_stats + 3 * ids_[i];
    const float score = scores_[i] * (scale * stats[0]);
    const float bound =
        slope_norm * stats[1] + slope_error * stats[2] + constant + 4e-7f * std::fabs(score);
    const bool is_above = score - bound > target_score, is_below = score + bound < target_score;
    above += is_above;
    ids_[undecided] = ids_[i];
    undecided += !(is_above | is_below);  // all, if the target's score is NaN
  }
  num_undecided_ = undecided;
  size_ = 0;
  return above;
}

}  // namespace rl4rec
