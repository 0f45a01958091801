// What compiled host code needs of the CUDA runtime, for tests without a GPU: names of kernels are
// registered, and launches are handed to Python. Tensors that host code allocates meanwhile are
// noted, so that accesses outside of them are found, and are filled with NaN.
#undef TORCH_TARGET_VERSION  // the allocator is not in torch's stable interface
#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using Launch = int (*)(const char* name, int together, unsigned blocks, int threads,
                       int64_t shared_bytes, void** arguments);

Launch launch;
std::map<const void*, std::string>& names() {
  static std::map<const void*, std::string> of_kernels;
  return of_kernels;
}
std::map<void*, size_t> allocated;

void release(void* data) {
  allocated.erase(data);
  std::free(data);
}

struct Noted final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = std::aligned_alloc(64, (size + 127) / 64 * 64);
    std::memset(data, 0xff, size);
    allocated[data] = size;
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
} noted;

}  // namespace

EXPORT void set_launch(Launch function) { launch = function; }

// Notes allocations from now on, or no more.
EXPORT void note_allocations(int on) {
  static c10::Allocator* const usual = c10::GetCPUAllocator();
  c10::SetCPUAllocator(on ? &noted : usual, 255);
}

// Writes addresses and sizes of the noted tensors that exist; returns how many they are.
EXPORT int64_t list_allocations(uint64_t* ranges, int64_t room) {
  int64_t count = 0;
  for (const auto& [data, size] : allocated) {
    if (count == room) break;
    ranges[2 * count] = reinterpret_cast<uint64_t>(data), ranges[2 * count + 1] = size;
    ++count;
  }
  return count;
}

extern "C" {

int launch_emulated(const void* kernel, int together, unsigned blocks, int threads,
                    int64_t shared_bytes, void** arguments) {
  return launch(names().at(kernel).c_str(), together, blocks, threads, shared_bytes, arguments);
}

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*,
                            void*, void*, int*) {
  names()[host] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) { return 1; }

// Only the stubs that nvcc makes for `kernel<<<...>>>` refer to these, and none is called.
int __cudaPushCallConfiguration(...) { std::abort(); }
int __cudaPopCallConfiguration(...) { std::abort(); }
int __cudaGetKernel(...) { std::abort(); }
int __cudaLaunchKernel(...) { std::abort(); }
int cudaLaunchKernel(...) { std::abort(); }

}  // extern "C"
