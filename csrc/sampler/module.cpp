// The pybind11 module rl4rec_kernels._sampler. rl4rec_kernels/negatives/sampling.py checks the
// arguments.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "sampler/philox.h"
#include "sampler/sampler.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

py::array_t<int64_t> sample(int64_t num_items, const Array<int64_t>& seen,
                            const Array<int64_t>& offsets, int64_t num_negatives, uint64_t seed,
                            const Array<int64_t>& user_ids,
                            const std::optional<Array<double>>& weights, int64_t first_item,
                            int num_threads) {
  const rl4rec::Request request{num_items,   first_item,      num_negatives,
                                seed,        user_ids.size(), user_ids.data(),
                                seen.data(), offsets.data(),  weights ? weights->data() : nullptr};
  const rl4rec::Execution execution{num_threads, [] {
                                      py::gil_scoped_acquire gil;
                                      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
                                    }};
  {
    py::gil_scoped_release release;
    rl4rec::check_enough(request, execution);
  }
  // After the check: for a num_negs far above num_items, the error is not one of memory.
  py::array_t<int64_t> out(
      {static_cast<py::ssize_t>(user_ids.size()), static_cast<py::ssize_t>(num_negatives)});
  int64_t* const result = out.mutable_data();
  py::gil_scoped_release release;
  rl4rec::sample(request, execution, result);
  return out;
}

}  // namespace

PYBIND11_MODULE(_sampler, m, py::mod_gil_not_used()) {
  m.def("sample", &sample);
  m.def("philox", &rl4rec::philox);  // for the test against published values
}
