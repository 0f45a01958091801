// weighted_segment_sum on the GPU: both gradients of score_candidates, deterministic.
//
// A block sums one segment over one slice of columns, as wide as a warp loads at once. Its warps
// take kRows terms in turn, so that a long segment has 16 rows in flight per slice. Then their sums
// are added in order.
#include "cuda/arguments.cuh"

namespace rl4rec {
namespace {

struct Segments {
  const float* weights;
  const void* index;
  const int64_t* order;  // may be null
  const int64_t* offsets;
  int64_t num_terms, num_weights;  // how many j and p there are
  int64_t slices;
  bool is_int64;  // index
};

// A contiguous result of any floating-point dtype.
struct Output {
  __device__ __forceinline__ void store(int64_t at, float value) const {
    if (type == ScalarType::Float) {
      static_cast<float*>(data)[at] = value;
    } else if (type == ScalarType::Half) {
      static_cast<torch::headeronly::Half*>(data)[at] = value;
    } else {
      static_cast<torch::headeronly::BFloat16*>(data)[at] = value;
    }
  }

  void* data;
  ScalarType type;
};

// The row of term j, or -1, and its weight.
template <typename T>
__device__ __forceinline__ int64_t load_term(const Segments& s, const Rows<T>& rows, int64_t j,
                                             int64_t end, float& weight) {
  if (j >= end) return -1;
  const int64_t p = s.order ? s.order[j] : j;
  if (p < 0 || p >= s.num_weights) return -1;
  weight = s.weights[p];
  const int64_t row = s.is_int64 ? static_cast<const int64_t*>(s.index)[p]
                                 : static_cast<const int32_t*>(s.index)[p];
  return row < rows.count ? row : -1;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    segment_sum_kernel(const Segments s, const Rows<T> rows, const Output out) {
  constexpr int kPack = Rows<T>::kPack;
  const int lane = lane_of_thread(), warp = warp_of_thread();
  const int64_t segment = blockIdx.x / s.slices;
  const int64_t slice = blockIdx.x % s.slices * kLanes * kPack, at = slice + lane * kPack;
  const int64_t begin = max(s.offsets[segment], int64_t{0});
  const int64_t end = min(s.offsets[segment + 1], s.num_terms);

  float sums[kPack] = {};
#pragma unroll 1
  for (int64_t start = begin; start < end; start += kThreads) {
    float weight = 0.0f;
    const int64_t own = load_term(s, rows, start + slot_of_thread(), end, weight);
#pragma unroll 1
    for (int first = 0; first < kLanes; first += kRows) {
      Pack<T> packs[kRows];
      float weights[kRows];
      bool present[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = __shfl_sync(kAllLanes, own, first + r);
        weights[r] = __shfl_sync(kAllLanes, weight, first + r);
        present[r] = row >= 0 && at < rows.dim;
        if (!present[r]) continue;
        packs[r] = rows.aligned ? load_pack<T, true>(rows.row(row), at, rows.dim)
                                : load_pack<T, false>(rows.row(row), at, rows.dim);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (present[r])
#pragma unroll
          for (int i = 0; i < kPack; ++i) sums[i] = fmaf(weights[r], packs[r][i], sums[i]);
    }
  }

  __shared__ float shared[kWarps][kLanes * kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) shared[warp][lane * kPack + i] = sums[i];
  __syncthreads();
  for (int i = threadIdx.x; i < kLanes * kPack && slice + i < rows.dim; i += kThreads) {
    float sum = shared[0][i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) sum += shared[w][i];
    out.store(segment * rows.dim + slice + i, sum);
  }
}

// Row s of the result is the sum over j from offsets[s] to offsets[s + 1] of
// weights[p] * rows[index[p]] with p = order[j], or p = j without `order`; weights and index are
// read as lists, whatever their shape. The sum is in float32, in an order that depends on the
// length of the segment only. The result has the shape and the dtype of `like`. Terms whose index
// is not a row are left out. Both gradients of score_candidates are such sums.
Tensor weighted_segment_sum(const Tensor& weights, const Tensor& rows, const Tensor& index,
                            const OptionalTensor& order, const Tensor& offsets,
                            const Tensor& like) {
  const int32_t device_index = weights.get_device_index();
  const Device device(weights);
  const Matrix matrix(rows, "rows", device_index);
  const auto flat = [&](const Tensor& tensor, const char* name, ScalarType type,
                        const char* type_name) {
    check(on_device(tensor, device_index), name, " must be on ", kDeviceName, ", with weights");
    check(tensor.scalar_type() == type, name, " must be ", type_name);
    return torch::stable::contiguous(tensor);
  };
  const bool is_int64 = index.scalar_type() == ScalarType::Long;
  const Tensor flat_weights = flat(weights, "weights", ScalarType::Float, "float32");
  const Tensor flat_index =
      flat(index, "index", is_int64 ? ScalarType::Long : ScalarType::Int, "int32 or int64");
  const Tensor flat_offsets = flat(offsets, "offsets", ScalarType::Long, "int64");
  OptionalTensor flat_order;
  if (order) flat_order = flat(*order, "order", ScalarType::Long, "int64");
  check(weights.numel() == index.numel(), "weights has ", weights.numel(), " values, index ",
        index.numel());
  const int64_t segments = offsets.numel() - 1;
  check(segments >= 0 && like.dim() == 2 && like.size(0) == segments && like.size(1) == matrix.dim,
        "like must be [", segments, ", ", matrix.dim, "] (the segments, the dimensions of rows)");
  check(on_device(like, device_index) && is_float(like),
        "like must be float32, float16 or bfloat16 on ", kDeviceName);

  const Tensor result = torch::stable::new_empty(like, {segments, matrix.dim});
  with_storage(matrix, [&](auto storage) {
    using T = decltype(storage);
    constexpr int64_t kWidth = kLanes * Rows<T>::kPack;
    const Segments s{flat_weights.const_data_ptr<float>(),
                     flat_index.const_data_ptr(),
                     flat_order ? flat_order->const_data_ptr<int64_t>() : nullptr,
                     flat_offsets.const_data_ptr<int64_t>(),
                     order ? order->numel() : index.numel(),
                     index.numel(),
                     (matrix.dim + kWidth - 1) / kWidth,
                     is_int64};
    device.launch(segment_sum_kernel<T>, segments * s.slices, kThreads, 0, s, matrix.as_rows<T>(),
                  Output{result.mutable_data_ptr(), like.scalar_type()});
  });
  return result;
}

RL4REC_CUDA_OPERATOR(weighted_segment_sum,
                     "(Tensor weights, Tensor rows, Tensor index, Tensor? order, Tensor offsets, "
                     "Tensor like) -> Tensor")

}  // namespace

}  // namespace rl4rec
