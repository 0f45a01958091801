// Sets the order in which emulated threads and blocks run.
#include "cuda/launch.cuh"

extern "C" __attribute__((visibility("default"))) void set_order(int order) {
  emulator::order = static_cast<emulator::Order>(order);
}
