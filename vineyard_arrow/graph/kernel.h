// What the kernels of algorithms share: rows of neighbours, weights of any numeric type, work cut
// into blocks, and Ctrl-C.
//
// A block depends on the graph alone, never on the number of threads: what is summed by block and
// then in order of blocks is the same, bit by bit, however many threads there were.
#pragma once

#include <Python.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "parallel.h"
#include "scratch.h"

namespace vineyard::graph {

// The neighbours of v: indices[indptr[v]] to indices[indptr[v + 1]], ascending.
template <class I>
struct Rows {
  int64_t size;
  const int64_t* indptr;
  const I* indices;

  int64_t begin(int64_t v) const { return indptr[v]; }
  int64_t end(int64_t v) const { return indptr[v + 1]; }
  int64_t degree(int64_t v) const { return indptr[v + 1] - indptr[v]; }
  int64_t edges() const { return indptr[size]; }
  std::span<const I> operator[](int64_t v) const {
    return {indices + indptr[v], static_cast<size_t>(degree(v))};
  }
};

// An array of ids that are 32 or 64 bits wide, or none: then the id is the position.
struct Ids {
  const void* data = nullptr;
  bool wide = false;

  int64_t operator[](int64_t i) const {
    if (data == nullptr) return i;
    return wide ? static_cast<int64_t>(static_cast<const uint64_t*>(data)[i])
                : static_cast<const uint32_t*>(data)[i];
  }
};

// Weights read where they lie, whatever their type: the branch is always the same one, and costs
// nothing beside the memory's latency. With `ids`, position i is of the edge ids[i].
struct Weights {
  const void* data = nullptr;  // none: every edge weighs 1
  char kind = 'd';             // a letter of Python's struct module
  Ids ids{};

  double operator[](int64_t i) const { return data == nullptr ? 1.0 : raw(ids[i]); }
  double of_edge(int64_t id) const { return data == nullptr ? 1.0 : raw(id); }
  double raw(int64_t i) const {
    switch (kind) {
      case 'd': return static_cast<const double*>(data)[i];
      case 'f': return static_cast<const float*>(data)[i];
      case 'q': return static_cast<double>(static_cast<const int64_t*>(data)[i]);
      case 'Q': return static_cast<double>(static_cast<const uint64_t*>(data)[i]);
      case 'i': return static_cast<const int32_t*>(data)[i];
      case 'I': return static_cast<const uint32_t*>(data)[i];
      case 'h': return static_cast<const int16_t*>(data)[i];
      case 'H': return static_cast<const uint16_t*>(data)[i];
      case 'b': return static_cast<const int8_t*>(data)[i];
      default: return static_cast<const uint8_t*>(data)[i];
    }
  }
};

// Python has set its error already; Cython lets it through.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("interrupted") {}
};

using Cuts = std::vector<int64_t>;  // block b is the items from cuts[b] to cuts[b + 1]

inline Cuts cut_evenly(int64_t n, int64_t size) {
  Cuts cuts{0};
  for (int64_t i = 0; i < n; i += size) cuts.push_back(std::min(i + size, n));
  return cuts;
}

// Vertices in blocks of about as many edges each; a vertex counts like four.
inline Cuts cut_by_edges(int64_t n, const int64_t* indptr, int64_t work = 1 << 16) {
  Cuts cuts{0};
  for (int64_t v = 0; v < n;) {
    const int64_t goal = indptr[v] + 4 * v + work;
    int64_t low = v + 1, high = std::min(n, v + work / 4 + 1);
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (indptr[middle] + 4 * middle < goal) low = middle + 1; else high = middle;
    }
    cuts.push_back(v = low);
  }
  return cuts;
}

// One call of an algorithm: its threads, and whether Ctrl-C was pressed meanwhile.
class Run {
 public:
  explicit Run(int threads) : threads(threads) {}

  const int threads;

  // Call f(block, begin, end, thread) for every block. Only the calling thread, which is number
  // 0, asks Python for signals.
  template <class F>
  void blocks(const Cuts& cuts, F f) {
    const auto count = static_cast<int64_t>(cuts.size()) - 1;
    std::atomic<int64_t> next{0};
    std::atomic<bool> stop{false};
    auto work = [&](int thread) {
      for (int64_t b; !stop && (b = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
        f(b, cuts[b], cuts[b + 1], thread);
        if (thread == 0 && interrupted()) stop = true;
      }
    };
    if (threads == 1 || count <= 1) {
      work(0);
    } else {
      run_workers(static_cast<int>(std::min<int64_t>(threads, count)), work);
    }
    if (stop) throw Interrupted();
  }

  void check() {
    if (interrupted()) throw Interrupted();
  }

 private:
  using Clock = std::chrono::steady_clock;

  bool interrupted() {
    const auto now = Clock::now();
    if (now - asked_ < std::chrono::milliseconds(50)) return false;
    asked_ = now;
    const auto gil = PyGILState_Ensure();
    const bool set = PyErr_CheckSignals() != 0;
    PyGILState_Release(gil);
    return set;
  }

  Clock::time_point asked_ = Clock::now();
};

// Reading and writing what other threads write too.
template <class T>
T load(T& x) {
  return std::atomic_ref<T>(x).load(std::memory_order_relaxed);
}
template <class T>
void store(T& x, T value) {
  std::atomic_ref<T>(x).store(value, std::memory_order_relaxed);
}
template <class T>
bool replace(T& x, T expected, T value) {
  return std::atomic_ref<T>(x).compare_exchange_strong(expected, value, std::memory_order_relaxed);
}
template <class T>
void lower(T& x, T value) {
  for (T now = load(x); value < now && !replace(x, now, value); now = load(x)) {
  }
}

// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"), as a
// function of a counter: the numbers depend on what they are for, not on who draws them.
inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
inline uint64_t mix(uint64_t a, uint64_t b) { return mix(mix(a) ^ b); }
// Lemire 2019, without the rejection: the bias is n / 2^64.
inline uint64_t below(uint64_t random, uint64_t n) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random) * n) >> 64);
}
inline double unit(uint64_t random) { return static_cast<double>(random >> 11) * 0x1p-53; }

// Rename labels, each the id of some vertex, to 0, 1, ... by the first vertex that has them.
template <class I>
int64_t number_densely(std::vector<I>& labels) {
  constexpr I none = std::numeric_limits<I>::max();
  std::vector<I> names(labels.size(), none);
  I count = 0;
  for (I& label : labels) {
    I& name = names[label];
    if (name == none) name = count++;
    label = name;
  }
  return static_cast<int64_t>(count);
}

}  // namespace vineyard::graph
