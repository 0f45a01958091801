// In place of csrc/cuda/sm90/tensor_map.cuh in the tests without a GPU: the emulator's tensor map
// (tests/gpu/emulator/copies.py).
#pragma once

#include <cuda.h>

#include <cstring>

#include "cuda/rows.cuh"

namespace rl4rec {

template <typename T>
CUtensorMap describe_matrix(const void* data, int64_t rows, int64_t dim, int64_t stride,
                            int box_rows) {
  constexpr int64_t kBytes = sizeof(typename T::Bits);
  const int64_t pitch = kBytes * stride;
  check(reinterpret_cast<uintptr_t>(data) % 16 == 0 && pitch % 16 == 0 && rows > 0 && dim > 0 &&
            stride >= dim,
        "the copy engine cannot read a matrix at ", data, " with ", pitch, " bytes a row");
  const int64_t fields[] = {
      reinterpret_cast<int64_t>(data), dim, rows, pitch, 128 / kBytes, box_rows, kBytes};
  CUtensorMap map = {};
  std::memcpy(&map, fields, sizeof(fields));
  return map;
}

}  // namespace rl4rec
