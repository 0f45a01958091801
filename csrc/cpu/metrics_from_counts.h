// The metrics of a call.
#pragma once

#include "cpu/candidates.h"
#include "metrics.h"

namespace rl4rec {

// Metrics and a tie rule, see csrc/metrics.h. Refers to the arguments of its constructor.
class Metrics {
 public:
  Metrics(const std::vector<int64_t>& kinds, const std::vector<int64_t>& cutoffs, int64_t ties)
      : kinds_(kinds), cutoffs_(cutoffs), ties_(ties) {
    check_metrics(kinds, cutoffs, ties);
  }

  // The metrics of every row, float32 [rows, number of metrics].
  Tensor operator()(const Counts& counts) const {
    return (*this)(counts.above.data(), counts.tied.data(), counts.total.data(),
                   static_cast<int64_t>(counts.above.size()));
  }
  Tensor operator()(const int64_t* above, const int64_t* tied, const int64_t* total,
                    int64_t rows) const;

 private:
  const std::vector<int64_t>&kinds_, &cutoffs_;
  int64_t ties_;
};

}  // namespace rl4rec
