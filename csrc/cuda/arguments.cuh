// Checked arguments of the operators, as the kernels want them. Shapes, dtypes and devices are
// checked here; values only the kernels see.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>

#include "cuda/candidates.cuh"

namespace rl4rec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_float(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
}

// A matrix of embeddings whose last dimension is contiguous.
struct Matrix {
  Matrix(const Tensor& tensor, const char* name, int32_t device) : owner(tensor) {
    check(on_device(tensor, device), name, " must be on ", kDeviceName, ", with query");
    check(tensor.dim() == 2, name, " must have 2 dimensions, got ", tensor.dim());
    check(is_float(tensor), name, " must be float32, float16 or bfloat16");
    if (tensor.size(1) > 1 && tensor.stride(1) != 1) owner = torch::stable::contiguous(tensor);
    rows = owner.size(0), dim = owner.size(1), stride = owner.stride(0);
    check(dim <= std::numeric_limits<int32_t>::max() / 2, name, " has ", dim, " dimensions");
    data = owner.const_data_ptr();
  }

  template <typename T>
  Rows<T> as_rows() const {
    constexpr int kPack = Rows<T>::kPack;
    const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0 && dim % kPack == 0 &&
                         (rows <= 1 || stride % kPack == 0);
    return {static_cast<const typename T::Bits*>(data), rows, dim, stride, aligned};
  }

  Tensor owner;
  const void* data;
  int64_t rows, dim, stride;
};

// Calls visit(T()) for the matrix's storage T.
template <typename Visit>
void with_storage(const Matrix& matrix, const Visit& visit) {
  switch (matrix.owner.scalar_type()) {
    case ScalarType::Half: return visit(Float16());
    case ScalarType::BFloat16: return visit(BFloat16());
    default: return visit(Float32());
  }
}

// What score, rank and reward take.
class CandidateArguments {
 public:
  CandidateArguments(const Tensor& query, const Tensor& table, const Tensor& ids,
                     const std::optional<Tensor>& offsets, const Tensor& bad)
      : device(query),
        query_(query, "query", query.get_device_index()),
        table(table, "table", query.get_device_index()),
        ids_(ids),
        offsets_(offsets) {
    check(query_.dim == this->table.dim, "query has ", query_.dim, " dimensions, table ",
          this->table.dim);
    take_ids(query.get_device_index());
    check(on_device(bad, query.get_device_index()) && bad.scalar_type() == ScalarType::Int &&
              bad.numel() == 1,
          "bad must be int32 [1] on ", kDeviceName, ", with query");
    candidates.bad = static_cast<int*>(bad.mutable_data_ptr());
    take_queries();
  }

  // Bytes of shared memory that stage_query needs.
  int64_t shared_bytes() const { return queries.wide ? 0 : padded_dim(queries.dim) * 4; }

  // Launches prepare_rows where there is something to prepare; returns the counts of the rows that
  // have more than one chunk, or null.
  template <bool kTargets>
  RowCounts* prepare() {
    RowCounts* counts = nullptr;
    if (kTargets && (candidates.offsets || count_chunks<true>(candidates.columns) > 1)) {
      constexpr int64_t kColumns = sizeof(RowCounts) / sizeof(int64_t);
      counts_ =
          torch::stable::new_empty(query_.owner, {candidates.rows, kColumns}, ScalarType::Long);
      counts = static_cast<RowCounts*>(counts_->mutable_data_ptr());
    }
    if (counts || candidates.offsets)
      device.launch(prepare_rows, (candidates.rows + kThreads - 1) / kThreads, kThreads, 0,
                    candidates, counts);
    return counts;
  }

  Tensor new_result(std::initializer_list<int64_t> sizes, ScalarType type) const {
    return torch::stable::new_empty(query_.owner, sizes, type);
  }

  Device device;

 private:
  Matrix query_;

 public:
  Matrix table;
  Queries queries;
  Candidates candidates;

 private:
  void take_ids(int32_t index) {
    Candidates& c = candidates;
    check(on_device(ids_, index), "candidates must be on ", kDeviceName, ", with query");
    c.wide = ids_.scalar_type() == ScalarType::Long;
    check(c.wide || ids_.scalar_type() == ScalarType::Int, "candidates must be int32 or int64");
    c.rows = query_.rows;
    c.num_items = table.rows;
    c.count = ids_.numel();
    c.columns = c.row_stride = 0;
    c.offsets = nullptr;
    if (!offsets_) {
      check(ids_.dim() == 2 && ids_.size(0) == c.rows, "candidates must be [", c.rows,
            ", C], one row for each row of query");
      c.columns = ids_.size(1);
      if (c.columns > 1 && ids_.stride(1) != 1) ids_ = torch::stable::contiguous(ids_);
      c.row_stride = ids_.stride(0);
    } else {
      check(ids_.dim() == 1, "the values of ragged candidates must have 1 dimension");
      check(on_device(*offsets_, index) && offsets_->dim() == 1 &&
                offsets_->size(0) == c.rows + 1 && offsets_->scalar_type() == ScalarType::Long,
            "the offsets of ragged candidates must be int64 [", c.rows + 1, "] on ", kDeviceName);
      check(c.rows > 0 || c.count == 0, "the offsets of ragged candidates must end at ", c.count,
            ", the number of values, but there are no rows");
      ids_ = torch::stable::contiguous(ids_);
      offsets_ = torch::stable::contiguous(*offsets_);
      c.offsets = static_cast<const int64_t*>(offsets_->const_data_ptr());
    }
    c.ids = ids_.const_data_ptr();
  }

  void take_queries() {
    constexpr int64_t kSharedBytes = 48 << 10;  // what a block gets on every GPU
    const ScalarType type = query_.owner.scalar_type();
    queries = {query_.data,
               query_.dim,
               query_.stride,
               type == ScalarType::Float ? 4 : 2,
               type == ScalarType::BFloat16,
               nullptr};
    if (padded_dim(query_.dim) * 4 + 256 <= kSharedBytes) return;  // 256: the kernels' own
    wide_ = new_result({query_.rows, padded_dim(query_.dim)}, ScalarType::Float);
    float* wide = static_cast<float*>(wide_->mutable_data_ptr());
    device.launch(widen_queries, query_.rows, kThreads, 0, queries, wide);
    queries.wide = wide;
  }

  Tensor ids_;
  std::optional<Tensor> offsets_, wide_, counts_;
};

}  // namespace rl4rec
