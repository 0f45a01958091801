// Describes matrices to the copy engine. The tests without a GPU have another file of this name
// (tests/gpu/host).
#pragma once

#include <cuda.h>

#include "cuda/rows.cuh"

namespace rl4rec {

// A matrix of values of 8 or 16 bits, of which a copy takes `box_rows` rows and 128 bytes of each,
// to shared memory with the swizzle of 128 bytes. `stride` are the values from row to row, a
// multiple of 16 bytes.
template <typename T>
CUtensorMap describe_matrix(const void* data, int64_t rows, int64_t dim, int64_t stride,
                            int box_rows) {
  constexpr int kBytes = sizeof(typename T::Bits);
  constexpr CUtensorMapDataType kType = kBytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                        : std::is_same_v<T, Float16>
                                            ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
    check<std::runtime_error>(
        error == cudaSuccess && result == cudaDriverEntryPointSuccess,
        "the NVIDIA driver cannot describe tensors (cuTensorMapEncodeTiled); install driver 525 or "
        "later, or pass backend='triton'");
    return reinterpret_cast<Encode>(found);
  }();
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(dim), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(kBytes * stride)};
  const cuuint32_t box[] = {128 / kBytes, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  const CUresult error =
      encode(&map, kType, 2, const_cast<void*>(data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check<std::runtime_error>(error == CUDA_SUCCESS, "cannot describe a matrix of ", rows, " x ", dim,
                            " to the copy engine: error ", static_cast<int>(error));
  return map;
}

}  // namespace rl4rec
