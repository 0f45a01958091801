#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace rl4rec {

// (above, tied, total), each int64 [B], of every query's target among all rows of the table.
// `exclude` is as the ids of score_candidates, `row_stats` and `valid` as in catalog.h. With
// `source` the table is a quantized copy of it, and counts are those of the source. `target_scores`
// [B] may be given for targets of -1, which are not in this table.
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor> rank_catalog(
    const torch::stable::Tensor& query, const torch::stable::Tensor& table,
    const torch::stable::Tensor& targets, const std::optional<torch::stable::Tensor>& exclude,
    const std::optional<torch::stable::Tensor>& exclude_offsets,
    const std::optional<torch::stable::Tensor>& valid,
    const std::optional<torch::stable::Tensor>& row_stats,
    const std::optional<torch::stable::Tensor>& source,
    const std::optional<torch::stable::Tensor>& target_scores);

// The scores that rank_catalog compares with, float32 [B]; -inf for a target of -1.
torch::stable::Tensor score_catalog_targets(const torch::stable::Tensor& query,
                                            const torch::stable::Tensor& table,
                                            const torch::stable::Tensor& targets,
                                            const std::optional<torch::stable::Tensor>& row_stats);

torch::stable::Tensor reward_catalog(const torch::stable::Tensor& query,
                                     const torch::stable::Tensor& table,
                                     const torch::stable::Tensor& targets,
                                     const std::optional<torch::stable::Tensor>& exclude,
                                     const std::optional<torch::stable::Tensor>& exclude_offsets,
                                     const std::optional<torch::stable::Tensor>& valid,
                                     const std::optional<torch::stable::Tensor>& row_stats,
                                     const std::optional<torch::stable::Tensor>& source,
                                     const std::vector<int64_t>& kinds,
                                     const std::vector<int64_t>& cutoffs, int64_t ties);

}  // namespace rl4rec
