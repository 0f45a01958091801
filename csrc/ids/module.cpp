// The pybind11 module rl4rec_kernels._ids: lists of ids as arrays, and checks of them, each in one
// pass. rl4rec_kernels/ids.py explains what these functions refuse. They keep the GIL: most calls
// take a microsecond.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

namespace py = pybind11;

namespace {

using Ids = py::array_t<int64_t, py::array::c_style>;
using Mask = py::array_t<bool, py::array::c_style>;

Ids to_array(const std::vector<int64_t>& values) {
  return Ids(static_cast<py::ssize_t>(values.size()), values.data());
}

void check_offsets(const Ids& offsets, const Ids& values, py::ssize_t rows) {
  if (offsets.size() != rows + 1 || offsets.at(0) != 0 || offsets.at(rows) != values.size() ||
      !std::is_sorted(offsets.data(), offsets.data() + offsets.size()))
    throw std::invalid_argument("offsets do not divide the values into these rows");
}

// The ids of lists of int, where each row starts, and the smallest id; nothing if a row is not a
// list, or holds something else or a number that is not int64. `drop_padding` leaves out -1.
std::optional<py::tuple> pack(const py::list& rows, bool drop_padding) {
  size_t count = 0;
  for (const py::handle row : rows) {
    if (!PyList_CheckExact(row.ptr())) return {};
    count += static_cast<size_t>(PyList_GET_SIZE(row.ptr()));
  }
  std::vector<int64_t> values, offsets{0};
  values.reserve(count);
  offsets.reserve(rows.size() + 1);
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const py::handle row : rows) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(row.ptr()); ++i) {
      PyObject* const item = PyList_GET_ITEM(row.ptr(), i);
      if (!PyLong_CheckExact(item)) return {};  // bool is another type
      int overflow = 0;
      const int64_t id = PyLong_AsLongLongAndOverflow(item, &overflow);
      if (overflow != 0) return {};
      least = std::min(least, id);
      if (id != -1 || !drop_padding) values.push_back(id);
    }
    offsets.push_back(static_cast<int64_t>(values.size()));
  }
  return py::make_tuple(to_array(values), to_array(offsets), least);
}

// The ids `columns` [rows, n] before those of each row, and where each row starts.
py::tuple prepend(const Ids& columns, const Ids& values, const Ids& offsets) {
  if (columns.ndim() != 2) throw std::invalid_argument("columns must have 2 dimensions");
  const py::ssize_t rows = columns.shape(0), more = columns.shape(1);
  check_offsets(offsets, values, rows);
  Ids all(values.size() + rows * more), starts(rows + 1);
  int64_t* to = all.mutable_data();
  int64_t* const start = starts.mutable_data();
  for (py::ssize_t row = 0; row < rows; ++row) {
    start[row] = to - all.data();
    to = std::copy_n(columns.data() + row * more, more, to);
    to =
        std::copy(values.data() + offsets.data()[row], values.data() + offsets.data()[row + 1], to);
  }
  start[rows] = all.size();
  return py::make_tuple(all, starts);
}

// The ids of one row after another, hashed.
class Seen {
 public:
  explicit Seen(int64_t largest_row) {
    size_t size = 4;
    while (size < 2 * static_cast<size_t>(largest_row)) size *= 2;
    slots_.resize(size);
  }
  void next_row() { ++row_; }
  // Whether the id is new in its row.
  bool add(int64_t id) {
    const size_t mask = slots_.size() - 1;
    size_t at = (static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u) >> 32 & mask;
    for (; slots_[at].row == row_; at = (at + 1) & mask)
      if (slots_[at].id == id) return false;
    slots_[at] = {id, row_};
    return true;
  }

 private:
  struct Slot {
    int64_t id = 0, row = 0;
  };
  std::vector<Slot> slots_;
  int64_t row_ = 0;
};

// Rows without their targets and without repeats: (values, offsets, repeats, targets removed). The
// arrays are None if nothing was removed.
py::tuple clean(const Ids& values, const Ids& offsets, const Ids& targets) {
  const py::ssize_t rows = targets.size();
  check_offsets(offsets, values, rows);
  const int64_t* const start = offsets.data();
  int64_t largest = 0;
  for (py::ssize_t row = 0; row < rows; ++row)
    largest = std::max(largest, start[row + 1] - start[row]);
  Seen seen(largest);
  std::vector<int64_t> kept, starts{0};
  kept.reserve(values.size());
  starts.reserve(rows + 1);
  int64_t repeats = 0, removed = 0;
  for (py::ssize_t row = 0; row < rows; ++row) {
    const int64_t target = targets.data()[row];
    seen.next_row();
    for (int64_t i = start[row]; i < start[row + 1]; ++i) {
      const int64_t id = values.data()[i];
      if (id == target)
        ++removed;
      else if (!seen.add(id))
        ++repeats;
      else
        kept.push_back(id);
    }
    starts.push_back(static_cast<int64_t>(kept.size()));
  }
  if (repeats == 0 && removed == 0) return py::make_tuple(py::none(), py::none(), 0, 0);
  return py::make_tuple(to_array(kept), to_array(starts), repeats, removed);
}

// Where the first id is that is not below `num_rows`, or not marked in `valid`; -1 if all are.
int64_t first_bad(const Ids& ids, int64_t num_rows, const std::optional<Mask>& valid) {
  if (valid && valid->size() != num_rows) throw std::invalid_argument("valid has another size");
  const bool* const mask = valid ? valid->data() : nullptr;
  const auto is_bad = [&](int64_t id) {
    return static_cast<uint64_t>(id) >= static_cast<uint64_t>(num_rows) || (mask && !mask[id]);
  };
  const int64_t* const begin = ids.data();
  const int64_t* const end = begin + ids.size();
  const int64_t* const found = std::find_if(begin, end, is_bad);
  if (found != end) return found - begin;
  return -1;
}

// The first row without an id, or -1.
int64_t first_empty(const Ids& offsets) {
  const int64_t* const begin = offsets.data();
  const int64_t* const end = begin + offsets.size();
  const int64_t* const found = std::adjacent_find(begin, end);
  return found == end ? -1 : found - begin;
}

}  // namespace

PYBIND11_MODULE(_ids, m) {
  m.def("pack", &pack);
  m.def("prepend", &prepend);
  m.def("clean", &clean);
  m.def("first_bad", &first_bad);
  m.def("first_empty", &first_empty);
}
