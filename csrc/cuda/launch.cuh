// All that the kernels use of the CUDA runtime and of torch's view of the device: the stream, the
// device guard, launches. The tests run the same host code on the CPU, with another file of this
// name (tests/gpu/host).
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>

#include "check.h"

#define RL4REC_CUDA_LIBRARY rl4rec_cuda_raw
#define RL4REC_CUDA_KEY CUDA

namespace rl4rec {

// Whether the tensor is on the device, so that the kernels can read it.
inline bool on_device(const torch::stable::Tensor& tensor, int32_t device) {
  return tensor.is_cuda() && tensor.get_device_index() == device;
}
constexpr const char* kDeviceName = "the GPU";

// Makes a tensor's device current for its lifetime, and launches kernels on torch's stream there.
class Device {
 public:
  explicit Device(const torch::stable::Tensor& tensor) : guard_(index_of(tensor)) {
    void* stream = nullptr;
    check<std::runtime_error>(
        aoti_torch_get_current_cuda_stream(index_of(tensor), &stream) == AOTI_TORCH_SUCCESS,
        "torch has no current CUDA stream");
    stream_ = static_cast<cudaStream_t>(stream);
  }

  // The compute capability times ten, and the number of multiprocessors.
  int capability() const {
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
           attribute(cudaDevAttrComputeCapabilityMinor);
  }
  int processors() const { return attribute(cudaDevAttrMultiProcessorCount); }
  // What a call may allocate for parts of a table: little, but enough work for all processors.
  int64_t scratch_bytes() const { return 297 << 20; }

  // Lets a kernel be launched with more shared memory than the 48 KiB of every GPU.
  template <typename... Parameters>
  void allow_shared(void (*kernel)(Parameters...), int64_t bytes) const {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    check<std::runtime_error>(error == cudaSuccess, "a kernel cannot have ", bytes,
                              " bytes of shared memory: ", cudaGetErrorString(error));
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
              const Arguments&... arguments) const {
    launch_clusters(kernel, 1, blocks, threads, shared_bytes, arguments...);
  }

  // The same, where each `together` blocks are a cluster.
  template <typename... Parameters, typename... Arguments>
  void launch_clusters(void (*kernel)(Parameters...), int together, int64_t blocks, int threads,
                       int64_t shared_bytes, const Arguments&... arguments) const {
    check(blocks <= std::numeric_limits<int32_t>::max(), "the call needs ", blocks,
          " blocks of threads, but a GPU launches at most 2^31 - 1; split the batch");
    if (blocks == 0) return;
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(together), 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = static_cast<unsigned>(blocks), config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes, config.stream = stream_;
    config.attrs = &cluster, config.numAttrs = together > 1 ? 1 : 0;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    check<std::runtime_error>(error == cudaSuccess,
                              "cannot launch a kernel: ", cudaGetErrorString(error));
  }

 private:
  static int32_t index_of(const torch::stable::Tensor& tensor) {
    check(tensor.is_cuda(), "the tensors must be on a GPU");
    return tensor.get_device_index();
  }

  static int attribute(cudaDeviceAttr which) {  // of the current device
    int device = 0, value = 0;
    const bool known = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&value, which, device) == cudaSuccess;
    check<std::runtime_error>(known, "the CUDA driver does not describe the device");
    return value;
  }

  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace rl4rec
