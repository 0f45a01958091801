// Registers the raw operators for the GPU. The package's operators of these names call them and
// turn `bad` into errors.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.cuh"
#include "cuda/ops.h"

STABLE_TORCH_LIBRARY_FRAGMENT(RL4REC_RAW_LIBRARY, m) {
  m.def(
      "score_candidates(Tensor query, Tensor table, Tensor ids, Tensor? offsets, Tensor(a!) bad) "
      "-> Tensor");
  m.def(
      "rank_candidates(Tensor query, Tensor table, Tensor ids, Tensor? offsets, Tensor(a!) bad) "
      "-> (Tensor above, Tensor tied, Tensor total)");
  m.def(
      "reward_candidates(Tensor query, Tensor table, Tensor ids, Tensor? offsets, int[] kinds, "
      "int[] cutoffs, int ties, Tensor(a!) bad) -> Tensor");
  m.def(
      "weighted_segment_sum(Tensor weights, Tensor rows, Tensor index, Tensor? order, "
      "Tensor offsets, Tensor like) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(RL4REC_RAW_LIBRARY, RL4REC_RAW_KEY, m) {
  m.impl("score_candidates", TORCH_BOX(&rl4rec::score_candidates));
  m.impl("rank_candidates", TORCH_BOX(&rl4rec::rank_candidates));
  m.impl("reward_candidates", TORCH_BOX(&rl4rec::reward_candidates));
  m.impl("weighted_segment_sum", TORCH_BOX(&rl4rec::weighted_segment_sum));
}
