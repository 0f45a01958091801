// Describes matrices to the copy engine. The tests without a GPU have another file of this name
// (tests/gpu/host).
#pragma once

#include <cuda.h>

#include "cuda/launch.cuh"

namespace rl4rec {

// A matrix of 16-bit values, of which a copy takes `box_rows` rows and 64 columns, to shared memory
// with the swizzle of 128 bytes. `pitch` are the bytes from row to row, a multiple of 16.
inline CUtensorMap describe_matrix(const void* data, bool bfloat16, int64_t rows, int64_t dim,
                                   int64_t pitch, int box_rows) {
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
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(pitch)};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows)}, steps[] = {1, 1};
  const CUresult error =
      encode(&map, bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
             const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check<std::runtime_error>(error == CUDA_SUCCESS, "cannot describe a matrix of ", rows, " x ", dim,
                            " to the copy engine: error ", static_cast<int>(error));
  return map;
}

}  // namespace rl4rec
