#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

namespace rl4rec {

// The metrics of every query's target, float32 [B, number of metrics]. Metric m is kinds[m] cut off
// at rank cutoffs[m]; kinds and ties are numbered as in rl4rec_kernels/metrics.py.
torch::stable::Tensor reward_candidates(const torch::stable::Tensor& query,
                                        const torch::stable::Tensor& table,
                                        const torch::stable::Tensor& ids,
                                        const std::optional<torch::stable::Tensor>& offsets,
                                        const std::vector<int64_t>& kinds,
                                        const std::vector<int64_t>& cutoffs, int64_t ties);

}  // namespace rl4rec
