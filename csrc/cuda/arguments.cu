#include "cuda/arguments.cuh"

namespace rl4rec {
namespace {

// Checks the offsets and clears the counts, one thread per row.
__global__ void prepare_rows(const Candidates c, RowCounts* counts) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= c.rows) return;
  if (counts) counts[row] = {};
  if (!c.offsets) return;
  const int64_t begin = c.offsets[row], end = c.offsets[row + 1];
  const bool starts = row > 0 || begin == 0, ends = row + 1 < c.rows || end == c.count;
  if (!starts || !ends || begin > end) atomicOr(c.bad, kBadOffsets);
}

// Writes the queries as float32, padded with zeros, one block per row.
__global__ void pad_queries(const Queries queries, float* result) {
  const int64_t padded = padded_dim(queries.dim);
  for (int64_t j = threadIdx.x; j < padded; j += kThreads)
    result[blockIdx.x * padded + j] = j < queries.dim ? queries.at(blockIdx.x, j) : 0.0f;
}

}  // namespace

bool is_float(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
}

Matrix::Matrix(const Tensor& tensor, const char* name, int32_t device, bool quantized)
    : owner(tensor) {
  check(on_device(tensor, device), name, " must be on ", kDeviceName, ", with the other tensors");
  check(tensor.dim() == 2, name, " must have 2 dimensions, got ", tensor.dim());
  const ScalarType type = tensor.scalar_type();
  quantized = quantized && (type == ScalarType::Char || type == ScalarType::Float8_e4m3fn);
  check(is_float(tensor) || quantized, name, " must be float32, float16 or bfloat16");
  if (tensor.size(1) > 1 && tensor.stride(1) != 1) owner = torch::stable::contiguous(tensor);
  rows = owner.size(0), dim = owner.size(1), stride = owner.stride(0);
  check(dim <= 1 << 30, name, " must have at most 2^30 dimensions, got ", dim);
  data = owner.const_data_ptr();
}

CandidateArguments::CandidateArguments(const Tensor& query, const Tensor& table_tensor,
                                       const Tensor& ids, const OptionalTensor& offsets,
                                       const Tensor& bad)
    : ids_(ids),
      offsets_(offsets),
      index_(query.get_device_index()),
      device(query),
      query_(query, "query", index_),
      table(table_tensor, "table", index_) {
  check(query_.dim == table.dim, "query has ", query_.dim, " dimensions, table ", table.dim);
  check(on_device(bad, index_) && bad.scalar_type() == ScalarType::Int && bad.numel() == 1,
        "bad must be int32 [1] on ", kDeviceName);
  candidates.bad = bad.mutable_data_ptr<int32_t>();
  read_ids();
  read_queries();
}

void CandidateArguments::read_ids() {
  Candidates& c = candidates;
  check(on_device(ids_, index_), "candidates must be on ", kDeviceName, ", with query");
  c.is_int64 = ids_.scalar_type() == ScalarType::Long;
  check(c.is_int64 || ids_.scalar_type() == ScalarType::Int, "candidates must be int32 or int64");
  c.rows = query_.rows;
  c.num_items = table.rows;
  c.count = ids_.numel();
  if (!offsets_) {
    check(ids_.dim() == 2 && ids_.size(0) == c.rows, "candidates must be [", c.rows,
          ", C], one row per row of query");
    c.columns = ids_.size(1);
    if (c.columns > 1 && ids_.stride(1) != 1) ids_ = torch::stable::contiguous(ids_);
    c.row_stride = ids_.stride(0);
  } else {
    check(ids_.dim() == 1, "the values of ragged candidates must have 1 dimension");
    check(on_device(*offsets_, index_) && offsets_->dim() == 1 && offsets_->size(0) == c.rows + 1 &&
              offsets_->scalar_type() == ScalarType::Long,
          "the offsets of ragged candidates must be int64 [", c.rows + 1, "] on ", kDeviceName);
    check(c.rows > 0 || c.count == 0, "the offsets of ragged candidates must end at ", c.count,
          ", the number of values, but there are no rows");
    ids_ = torch::stable::contiguous(ids_);
    offsets_ = torch::stable::contiguous(*offsets_);
    c.offsets = offsets_->const_data_ptr<int64_t>();
  }
  c.ids = ids_.const_data_ptr();
}

void CandidateArguments::read_queries() {
  constexpr int64_t kSharedBytes = 47 << 10;  // of the 48 KiB that a block has on every GPU
  const ScalarType type = query_.owner.scalar_type();
  queries.data = query_.data;
  queries.dim = query_.dim;
  queries.stride = query_.stride;
  queries.bytes = type == ScalarType::Float ? 4 : 2;
  queries.bfloat16 = type == ScalarType::BFloat16;
  if (shared_bytes() <= kSharedBytes) return;
  padded_ = new_result({query_.rows, padded_dim(query_.dim)}, ScalarType::Float);
  float* padded = padded_->mutable_data_ptr<float>();
  device.launch(pad_queries, query_.rows, kThreads, 0, queries, padded);
  queries.padded = padded;
}

RowCounts* CandidateArguments::prepare(bool targets) {
  const Candidates& c = candidates;
  RowCounts* counts = nullptr;
  if (targets && (c.offsets || count_chunks<true>(c.columns) > 1)) {
    constexpr int64_t kColumns = sizeof(RowCounts) / sizeof(int64_t);
    counts_ = new_result({c.rows, kColumns}, ScalarType::Long);
    counts = static_cast<RowCounts*>(counts_->mutable_data_ptr());
  }
  if (counts || c.offsets)
    device.launch(prepare_rows, (c.rows + kThreads - 1) / kThreads, kThreads, 0, c, counts);
  return counts;
}

}  // namespace rl4rec
