// weighted_segment_sum on the GPU: both gradients of score_candidates, deterministic.
//
// A block sums a few segments over one slice of columns, as wide as a warp loads at once. A short
// segment is summed by one warp, its terms in order. Of a long one, the warps of the block take
// kRows terms in turn, and their sums are added in order. The gradient of a table has a segment for
// each item, most of them empty: a warp reads 32 terms at once, whatever segments they are of, and
// writes zeros where a segment has none.
#include <algorithm>

#include "cuda/arguments.cuh"

namespace rl4rec {
namespace {

struct Segments {
  __device__ __forceinline__ int64_t begin(int64_t i) const { return max(offsets[i], int64_t{0}); }
  __device__ __forceinline__ int64_t end(int64_t i) const { return min(offsets[i + 1], num_terms); }

  const float* weights;
  const void* index;
  const int64_t* order;  // may be null
  const int64_t* offsets;
  int64_t num_terms, num_weights;  // how many j and p there are
  int64_t count, slices;           // of segments, and of columns
  int per_block;                   // segments
  bool is_int64;                   // index
};

constexpr int kShort = kLanes;  // terms of a segment that one warp sums

// A contiguous result of any floating-point dtype.
struct Output {
  __device__ __forceinline__ uint32_t bits(float value) const {
    if (type == ScalarType::Half) return torch::headeronly::Half(value).x;
    return torch::headeronly::BFloat16(value).x;
  }
  __device__ __forceinline__ void store(int64_t at, float value) const {
    if (type == ScalarType::Float) {
      static_cast<float*>(data)[at] = value;
    } else {
      static_cast<uint16_t*>(data)[at] = static_cast<uint16_t>(bits(value));
    }
  }
  // The first `count` of some values; all of them at once if they are aligned.
  template <int kPack>
  __device__ __forceinline__ void store(int64_t at, const float (&values)[kPack],
                                        int64_t count) const {
    if (count < kPack || !aligned) {
#pragma unroll
      for (int i = 0; i < kPack; ++i)
        if (i < count) store(at + i, values[i]);
    } else if (type == ScalarType::Float) {
#pragma unroll
      for (int i = 0; i < kPack; i += 4)
        *reinterpret_cast<float4*>(static_cast<float*>(data) + at + i) =
            make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
    } else {
#pragma unroll
      for (int i = 0; i < kPack; i += 4) {
        const uint2 words = {bits(values[i]) | bits(values[i + 1]) << 16,
                             bits(values[i + 2]) | bits(values[i + 3]) << 16};
        *reinterpret_cast<uint2*>(static_cast<uint16_t*>(data) + at + i) = words;
      }
    }
  }

  void* data;
  ScalarType type;
  bool aligned;  // each row is a whole number of packs
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

// The terms that the lanes of a warp have: their rows, or -1, and weights.
struct Terms {
  int64_t row = -1;
  float weight = 0.0f;
  Access access = Access::kAligned;  // the same in all lanes
};

template <typename T>
__device__ __forceinline__ Terms load_terms(const Segments& s, const Rows<T>& rows, int64_t j,
                                            int64_t end) {
  Terms terms;
  terms.row = load_term(s, rows, j, end, terms.weight);
  if (!rows.aligned) {
    const bool has_words = terms.row < 0 || rows.has_words_of(rows.row(terms.row));
    terms.access = __all_sync(kAllLanes, has_words) ? Access::kShifted : Access::kByValue;
  }
  return terms;
}

// Adds two terms, of lane `first` and the next one, if they are before lane `last`.
template <Access kAccess, typename T>
__device__ __forceinline__ void add_two(const Rows<T>& rows, const Terms& terms, int first,
                                        int last, int at, float (&sums)[Rows<T>::kPack]) {
  constexpr int kTogether = kAccess == Access::kShifted ? 1 : 2;  // as there are registers for
#pragma unroll
  for (int half = 0; half < 2; half += kTogether) {
    Loaded<T, kAccess> loaded[kTogether];
    const typename T::Bits* values[kTogether];
    float weights[kTogether];
#pragma unroll
    for (int r = 0; r < kTogether; ++r) {
      const int lane = first + half + r;
      const int64_t row = __shfl_sync(kAllLanes, terms.row, lane);
      weights[r] = __shfl_sync(kAllLanes, terms.weight, lane);
      values[r] = lane < last && row >= 0 && at < rows.dim ? rows.row(row) : nullptr;
      loaded[r].load(values[r], at, rows.dim);
    }
#pragma unroll
    for (int r = 0; r < kTogether; ++r) {
      if (!values[r]) continue;
      const Pack<T> pack = loaded[r].pack(values[r], at, rows.dim);
#pragma unroll
      for (int i = 0; i < Rows<T>::kPack; ++i) sums[i] = fmaf(weights[r], pack[i], sums[i]);
    }
  }
}

// Adds the terms of lanes `first` to `last`. Four at a time would take too many registers.
template <typename T>
__device__ __forceinline__ void add_terms(const Rows<T>& rows, const Terms& terms, int first,
                                          int last, int at, float (&sums)[Rows<T>::kPack]) {
#pragma unroll 1
  for (; first < last; first += 2) {
    switch (terms.access) {
      case Access::kAligned: add_two<Access::kAligned>(rows, terms, first, last, at, sums); break;
      case Access::kShifted: add_two<Access::kShifted>(rows, terms, first, last, at, sums); break;
      default: add_two<Access::kByValue>(rows, terms, first, last, at, sums);
    }
  }
}

// Sums a long segment; the whole block must call this.
template <typename T>
__device__ __forceinline__ void sum_long(const Segments& s, const Rows<T>& rows, const Output& out,
                                         int64_t segment, int slice) {
  constexpr int kPack = Rows<T>::kPack;
  const int64_t begin = s.begin(segment), end = s.end(segment);
  const int lane = lane_of_thread(), warp = warp_of_thread();
  float sums[kPack] = {};
#pragma unroll 1
  for (int64_t start = begin; start < end; start += kThreads) {
    const Terms terms = load_terms(s, rows, start + slot_of_thread(), end);
    add_terms(rows, terms, 0, kLanes, slice + lane * kPack, sums);
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
  __syncthreads();  // before the next segment
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    segment_sum_kernel(const Segments s, const Rows<T> rows, const Output out) {
  constexpr int kPack = Rows<T>::kPack;
  const int lane = lane_of_thread(), per_warp = (s.per_block + kWarps - 1) / kWarps;
  const int64_t first = blockIdx.x / s.slices * s.per_block;
  const int slice = static_cast<int>(blockIdx.x % s.slices) * kLanes * kPack;
  const int at = slice + lane * kPack;
  // A lane knows one of the block's segments: where it begins, and its length if it is short.
  const int count = static_cast<int>(min(s.count - first, static_cast<int64_t>(s.per_block)));
  const int64_t begin = lane < count ? s.begin(first + lane) : 0;
  const int64_t end = lane < count ? s.end(first + lane) : 0;
  const int length = static_cast<int>(min(max(end - begin, int64_t{0}), int64_t{kShort + 1}));
  const unsigned long_ones = __ballot_sync(kAllLanes, length > kShort);

  Terms terms;
  int64_t window = -2 * kLanes;  // the term of the first lane
  const int stop = min((warp_of_thread() + 1) * per_warp, count);
#pragma unroll 1
  for (int k = warp_of_thread() * per_warp; k < stop; ++k) {
    const int terms_here = __shfl_sync(kAllLanes, length, k);
    if (terms_here > kShort) continue;
    const int64_t from = __shfl_sync(kAllLanes, begin, k);
    if (terms_here > 0 && (from < window || from + terms_here > window + kLanes)) {
      window = from;
      terms = load_terms(s, rows, window + lane, s.num_terms);
    }
    float sums[kPack] = {};
    const int last = static_cast<int>(from - window) + terms_here;
    add_terms(rows, terms, last - terms_here, last, at, sums);
    if (at < rows.dim) out.store((first + k) * rows.dim + at, sums, rows.dim - at);
  }
#pragma unroll 1
  for (unsigned left = long_ones; left != 0; left &= left - 1)
    sum_long(s, rows, out, first + __popc((left - 1) & ~left), slice);
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
    const int64_t terms = order ? order->numel() : index.numel();
    // Few segments are spread over many blocks. Long ones need the warps of a block together.
    const int64_t per_block = std::clamp<int64_t>(segments / 128, kWarps, kLanes);
    const Segments s{flat_weights.const_data_ptr<float>(),
                     flat_index.const_data_ptr(),
                     flat_order ? flat_order->const_data_ptr<int64_t>() : nullptr,
                     flat_offsets.const_data_ptr<int64_t>(),
                     terms,
                     index.numel(),
                     segments,
                     (matrix.dim + kWidth - 1) / kWidth,
                     terms > kShort * segments ? 1 : static_cast<int>(per_block),
                     is_int64};
    const int64_t blocks = (segments + s.per_block - 1) / s.per_block * s.slices;
    device.launch(
        segment_sum_kernel<T>, blocks, kThreads, 0, s, matrix.as_rows<T>(),
        Output{result.mutable_data_ptr(), like.scalar_type(), matrix.dim % Rows<T>::kPack == 0});
  });
  return result;
}

RL4REC_CUDA_OPERATOR(weighted_segment_sum,
                     "(Tensor weights, Tensor rows, Tensor index, Tensor? order, Tensor offsets, "
                     "Tensor like) -> Tensor")

}  // namespace

}  // namespace rl4rec
