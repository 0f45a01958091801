// Rank metrics of one relevant item, as functions of rank counts. The definitions stand in
// rl4rec_kernels/ops/reference.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "cpu/parallel.h"

namespace rl4rec {

// Metric m is kinds[m] cut off at rank cutoffs[m]; kinds and ties are numbered as in
// rl4rec_kernels/metrics.py.
class Metrics {
 public:
  Metrics(const std::vector<int64_t>& kinds, const std::vector<int64_t>& cutoffs, int64_t ties);

  // The metrics of every row, float32 [rows, number of metrics]; `like` gives the device. Counts
  // needs above[row], tied[row] and total[row].
  template <typename Counts>
  torch::stable::Tensor operator()(const Counts& counts, int64_t rows,
                                   const torch::stable::Tensor& like) const {
    const torch::stable::Tensor result = new_result(rows, like);
    float* out = static_cast<float*>(result.mutable_data_ptr());
    const int64_t columns = static_cast<int64_t>(kinds_.size());
    constexpr int64_t kPerThread = 512;  // metrics that are worth starting a thread for
    parallel_for(0, rows, 1 + kPerThread / (1 + columns), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        evaluate(counts.above[row], counts.tied[row], counts.total[row], out + row * columns);
    });
    return result;
  }

 private:
  torch::stable::Tensor new_result(int64_t rows, const torch::stable::Tensor& like) const;
  void evaluate(int64_t above, int64_t tied, int64_t total, float* out) const;

  std::vector<int64_t> kinds_, cutoffs_;
  int64_t ties_;
};

}  // namespace rl4rec
