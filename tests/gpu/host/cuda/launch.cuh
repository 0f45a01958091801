// In place of csrc/cuda/launch.cuh in the tests without a GPU: the same host code, on tensors of
// the CPU, hands its launches to the emulator of PTX (tests/gpu).
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>

#include "check.h"

#define RL4REC_CUDA_LIBRARY rl4rec_cuda_emulated
#define RL4REC_CUDA_KEY CPU

extern "C" int launch_emulated(const void* kernel, int together, unsigned blocks, int threads,
                               int64_t shared_bytes, void** arguments);

namespace rl4rec {

inline bool on_device(const torch::stable::Tensor& tensor, int32_t) { return tensor.is_cpu(); }
constexpr const char* kDeviceName = "the CPU";

class Device {
 public:
  explicit Device(const torch::stable::Tensor& tensor) {
    check(tensor.is_cpu(), "the tensors must be on the CPU");
  }

  int capability() const { return 90; }
  int processors() const { return 3; }
  int64_t scratch_bytes() const { return 400'000; }

  template <typename... Parameters>
  void allow_shared(void (*)(Parameters...), int64_t bytes) const {
    check(bytes <= 227 << 10, "a block has 227 KiB of shared memory, not ", bytes);
    allowed_ = bytes;
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
              const Arguments&... arguments) const {
    launch_clusters(kernel, 1, blocks, threads, shared_bytes, arguments...);
  }

  template <typename... Parameters, typename... Arguments>
  void launch_clusters(void (*kernel)(Parameters...), int together, int64_t blocks, int threads,
                       int64_t shared_bytes, const Arguments&... arguments) const {
    check(shared_bytes <= allowed_, "a block has ", allowed_, " bytes of shared memory, not ",
          shared_bytes);
    if (blocks == 0) return;
    run(kernel, together, blocks, threads, shared_bytes, Parameters(arguments)...);
  }

 private:
  template <typename... Parameters>
  static void run(void (*kernel)(Parameters...), int together, int64_t blocks, int threads,
                  int64_t shared_bytes, Parameters... parameters) {
    void* pointers[] = {static_cast<void*>(&parameters)...};
    const int failed =
        launch_emulated(reinterpret_cast<const void*>(kernel), together,
                        static_cast<unsigned>(blocks), threads, shared_bytes, pointers);
    check<std::runtime_error>(!failed, "the emulated kernel failed");
  }

  mutable int64_t allowed_ = 48 << 10;
};

}  // namespace rl4rec
