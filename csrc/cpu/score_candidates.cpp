// score_candidates and its two gradients. Defined in rl4rec_kernels/ops/reference.py.
#include "cpu/candidates.h"

namespace rl4rec {
namespace {

Tensor score_candidates(const Tensor& query, const Tensor& table, const Tensor& ids,
                        const OptionalTensor& offsets) {
  const CandidateArguments arguments(query, table, ids, offsets);
  const Embeddings &queries = arguments.queries, &items = arguments.items;
  const Candidates& candidates = arguments.candidates;
  const Tensor scores = torch::stable::new_empty(ids, ids.sizes(), ScalarType::Float);
  float* out = scores.mutable_data_ptr<float>();
  IdCheck id_check(candidates, items.rows, /*needs_target=*/false);

  const auto score = [&](int64_t row, int64_t begin, int64_t end, const float* query_row) {
    Chunk chunk;
    int64_t indices[kChunkSize];  // of the chunk's candidates
    const auto flush = [&](int64_t next) {
      if (chunk.size == 0) return;
      chunk.score(items, query_row, candidates, next);
      for (int64_t i = 0; i < chunk.size; ++i) out[indices[i]] = chunk.scores[i];
      chunk.size = 0;
    };
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = candidates.id(row, i);
      if (!id_check.is_item(row, i, id)) {
        out[i] = -std::numeric_limits<float>::infinity();
        continue;
      }
      indices[chunk.size] = i;
      chunk.add(items.row(id));
      if (chunk.full()) flush(i + 1);
    }
    flush(end);
  };
  for_each_range(candidates, queries, score);
  id_check.raise();
  return scores;
}

// The gradient of every candidate's score, in the order of Candidates.
const float* gradients(const Tensor& grad, const Candidates& candidates, Tensor& owner) {
  check(
      grad.is_cpu() && grad.scalar_type() == ScalarType::Float && grad.numel() == candidates.count,
      "grad must be float32 on the CPU, of the shape of the scores");
  owner = torch::stable::contiguous(grad);
  return owner.const_data_ptr<float>();
}

// A weighted sum of rows, in float32 until it is complete.
class WeightedSum {
 public:
  explicit WeightedSum(const Embeddings& from) : from_(from), sum_(from.padded_dim()) {}

  void start() { std::fill(sum_.begin(), sum_.end(), 0.0f); }
  void add(int64_t row, float weight) {
    rows_[size_] = from_.row(row);
    weights_[size_] = weight;
    if (++size_ == kChunkSize) flush();
  }
  void store(const Tensor& to, int64_t row) {
    flush();
    store_row(to, row, sum_.data(), from_.dim);
  }

 private:
  void flush() {
    level().rows.add_rows[from_.storage](sum_.data(), weights_, rows_, size_, from_.dim);
    size_ = 0;
  }

  const Embeddings& from_;
  std::vector<float> sum_;
  const void* rows_[kChunkSize];
  float weights_[kChunkSize];
  int64_t size_ = 0;
};

Tensor score_candidates_grad_query(const Tensor& grad, const Tensor& query, const Tensor& table,
                                   const Tensor& ids, const OptionalTensor& offsets) {
  const CandidateArguments arguments(query, table, ids, offsets);
  const Embeddings& items = arguments.items;
  const Candidates& candidates = arguments.candidates;
  Tensor grad_owner;
  const float* weights = gradients(grad, candidates, grad_owner);
  const Tensor result = torch::stable::new_empty(query, query.sizes());
  IdCheck id_check(candidates, items.rows, /*needs_target=*/false);

  parallel_for(0, candidates.rows, 1, [&](int64_t begin, int64_t end) {
    WeightedSum sum(items);
    for (int64_t row = begin; row < end; ++row) {
      sum.start();
      for (int64_t i = candidates.begin(row); i < candidates.end(row); ++i) {
        const int64_t id = candidates.id(row, i);
        if (id_check.is_item(row, i, id)) sum.add(id, weights[i]);
      }
      sum.store(result, row);
    }
  });
  id_check.raise();
  return result;
}

// Each row of the table sums over its own candidates in their order, which a counting sort finds:
// no two threads write to the same row, and the result does not depend on their number.
Tensor score_candidates_grad_table(const Tensor& grad, const Tensor& query, const Tensor& table,
                                   const Tensor& ids, const OptionalTensor& offsets) {
  const CandidateArguments arguments(query, table, ids, offsets);
  const Embeddings& queries = arguments.queries;
  const Candidates& candidates = arguments.candidates;
  const int64_t num_items = arguments.items.rows;
  Tensor grad_owner;
  const float* weights = gradients(grad, candidates, grad_owner);
  const Tensor result = torch::stable::new_zeros(table, table.sizes());
  IdCheck id_check(candidates, num_items, /*needs_target=*/false);

  struct Use {
    int64_t row, candidate;
  };
  const auto for_each_use = [&](const auto& fn) {
    for (int64_t row = 0; row < candidates.rows; ++row)
      for (int64_t i = candidates.begin(row); i < candidates.end(row); ++i) {
        const int64_t id = candidates.id(row, i);
        if (id_check.is_item(row, i, id)) fn(id, Use{row, i});
      }
  };
  std::vector<int64_t> starts(num_items + 2);
  for_each_use([&](int64_t id, Use) { ++starts[id + 2]; });
  id_check.raise();
  for (int64_t id = 0; id < num_items; ++id) starts[id + 2] += starts[id + 1];
  std::vector<Use> uses(starts[num_items + 1]);
  for_each_use([&](int64_t id, Use use) { uses[starts[id + 1]++] = use; });

  parallel_for(0, num_items, 1, [&](int64_t begin, int64_t end) {
    WeightedSum sum(queries);
    for (int64_t id = begin; id < end; ++id) {
      if (starts[id] == starts[id + 1]) continue;
      sum.start();
      for (int64_t u = starts[id]; u < starts[id + 1]; ++u)
        sum.add(uses[u].row, weights[uses[u].candidate]);
      sum.store(result, id);
    }
  });
  return result;
}

RL4REC_OPERATOR(score_candidates,
                "(Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> Tensor")
RL4REC_OPERATOR(score_candidates_grad_query,
                "(Tensor grad, Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> Tensor")
RL4REC_OPERATOR(score_candidates_grad_table,
                "(Tensor grad, Tensor query, Tensor table, Tensor ids, Tensor? offsets) -> Tensor")

}  // namespace
}  // namespace rl4rec
