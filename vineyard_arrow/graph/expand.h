// The edges of many vertices at once, columns of the result, and samples of rows.
//
// The result's edges are numbered through: those of frontier[i] are offsets[i] to offsets[i + 1].
// Any stretch of them can be written by itself, so batches, limits and threads are all stretches.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace vineyard::graph {

constexpr int64_t kAhead = 16;  // vertices whose rows are on their way from memory
constexpr int64_t kExpandGrain = 1 << 19;  // edges; a thread for fewer costs more than it saves

// Fills offsets[n + 1]: `most` edges of a vertex at most (< 0: all). Returns the first place in
// `frontier` of a vertex outside the rows, or -1.
inline int64_t expand_offsets(const int64_t* indptr, int64_t num_rows, const int64_t* frontier,
                              int64_t n, int64_t most, int threads, int64_t* offsets) {
  struct Range {
    int64_t begin = 0, end = 0, total = 0, outside = -1;
  };
  std::vector<Range> ranges(threads);
  auto inside = [&](int64_t v) { return static_cast<uint64_t>(v) < static_cast<uint64_t>(num_rows); };
  parallel_ranges(n, threads, int64_t{1} << 15, [&](int64_t begin, int64_t end, int worker) {
    Range range{begin, end};
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < n && inside(frontier[i + kAhead]))
        __builtin_prefetch(indptr + frontier[i + kAhead]);
      const int64_t v = frontier[i];
      if (!inside(v)) {
        range.outside = i;
        break;
      }
      const int64_t degree = indptr[v + 1] - indptr[v];
      offsets[i] = range.total;
      range.total += most >= 0 ? std::min(most, degree) : degree;
    }
    ranges[worker] = range;
  });
  int64_t total = 0;
  for (const Range& range : ranges) {
    if (range.outside >= 0) return range.outside;
    if (total > 0)
      for (int64_t i = range.begin; i < range.end; ++i) offsets[i] += total;
    total += range.total;
  }
  offsets[n] = total;
  return -1;
}

// Calls f(i, skip, count, at) for the vertices that edges [begin, end) of the result are of:
// `count` edges of frontier[i] from its `skip`-th on, which go to place `at`.
template <typename F>
void stretches(const int64_t* offsets, int64_t n, int64_t begin, int64_t end, F&& f) {
  int64_t i = std::upper_bound(offsets, offsets + n + 1, begin) - offsets - 1;
  for (int64_t at = 0; begin < end; ++i) {
    int64_t count = std::min(end, offsets[i + 1]) - begin;
    if (count <= 0) continue;
    f(i, begin - offsets[i], count, at);
    at += count, begin += count;
  }
}

struct Rng {  // splitmix64 (Steele et al. 2014)
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  uint64_t below(uint64_t n) {  // bias under n / 2^64
    return static_cast<uint64_t>(static_cast<unsigned __int128>(next()) * n >> 64);
  }
};

// `want` different numbers below `degree`, ascending: Floyd's way, or by selection (Knuth 3.4.2 S)
// where most are taken. What is drawn depends on seed and place alone, not on threads.
inline void sample_row(uint64_t seed, int64_t place, int64_t degree, int64_t want, int64_t* out) {
  if (want >= degree) {
    for (int64_t j = 0; j < degree; ++j) out[j] = j;
    return;
  }
  Rng rng{seed ^ static_cast<uint64_t>(place) * 0xd1342543de82ef95u};
  rng.next();
  if (want <= 32 && want * 4 < degree) {
    for (int64_t j = degree - want, k = 0; j < degree; ++j, ++k) {
      int64_t t = rng.below(j + 1);
      if (std::find(out, out + k, t) != out + k) t = j;
      out[k] = t;
    }
    std::sort(out, out + want);
    return;
  }
  for (int64_t j = 0, k = 0; k < want; ++j)
    if (static_cast<int64_t>(rng.below(degree - j)) < want - k) out[k++] = j;
}

template <typename T>
using Four __attribute__((vector_size(4 * sizeof(T)))) = T;

// Edges first, first + 1, ... of vertex v; `loose`: by fours, so that up to three more are read and
// written. Most rows are so short that where a loop ends would be guessed wrong each time.
template <typename V, typename E>
void write_row(V v, const V* indices, const E* edge_ids, int64_t first, int64_t count, bool loose,
               V* src, V* dst, E* ids) {
  if (!loose) {
    std::fill_n(src, count, v);
    memcpy(dst, indices + first, count * sizeof(V));
    if (edge_ids)
      memcpy(ids, edge_ids + first, count * sizeof(E));
    else
      for (int64_t j = 0; j < count; ++j) ids[j] = static_cast<E>(first + j);
    return;
  }
  const Four<V> source = Four<V>{} + v;
  Four<V> target;
  Four<E> place = Four<E>{0, 1, 2, 3} + static_cast<E>(first);
  for (int64_t j = 0; j < count; j += 4, place += 4) {
    memcpy(&target, indices + first + j, sizeof target);
    if (edge_ids) memcpy(&place, edge_ids + first + j, sizeof place);
    memcpy(src + j, &source, sizeof source);
    memcpy(dst + j, &target, sizeof target);
    memcpy(ids + j, &place, sizeof place);
  }
}

// Has the rows of vertices that come next on their way: where they are, then their beginnings.
template <typename V, typename E>
void prefetch(const int64_t* indptr, const V* indices, const E* edge_ids, const int64_t* frontier,
              const int64_t* offsets, int64_t n, int64_t i) {
  if (i + 2 * kAhead < n) __builtin_prefetch(indptr + frontier[i + 2 * kAhead]);
  if (i + kAhead >= n) return;
  const int64_t first = indptr[frontier[i + kAhead]];
  const int64_t count = std::min<int64_t>(offsets[i + kAhead + 1] - offsets[i + kAhead], 64);
  for (int64_t j = 0; j < count; j += 64 / sizeof(V)) __builtin_prefetch(indices + first + j);
  for (int64_t j = 0; edge_ids && j < count; j += 64 / sizeof(E))
    __builtin_prefetch(edge_ids + first + j);
}

// Writes src, dst and edge id of edges [begin, end) of an expansion. `edge_ids` may be null: the
// position is the id. With `sample`, at most that many of each vertex.
template <typename V, typename E>
void expand_fill(const int64_t* indptr, const V* indices, const E* edge_ids, int64_t num_edges,
                 const int64_t* frontier, const int64_t* offsets, int64_t n, int64_t begin,
                 int64_t end, int64_t sample, uint64_t seed, int threads, V* out_src, V* out_dst,
                 E* out_ids) {
  parallel_ranges(end - begin, threads, kExpandGrain, [=](int64_t from, int64_t to, int) {
    V* const src = out_src + from;
    V* const dst = out_dst + from;
    E* const ids = out_ids + from;
    auto copy = [=](int64_t i, int64_t skip, int64_t count, int64_t at) {
      prefetch(indptr, indices, edge_ids, frontier, offsets, n, i);
      const int64_t v = frontier[i], first = indptr[v] + skip;
      const bool loose = at + count + 3 <= to - from && first + count + 3 <= num_edges;
      write_row(static_cast<V>(v), indices, edge_ids, first, count, loose, src + at, dst + at,
                ids + at);
    };
    if (sample < 0) return stretches(offsets, n, begin + from, begin + to, copy);
    std::vector<int64_t> picked;
    auto pick = [=, &picked](int64_t i, int64_t skip, int64_t count, int64_t at) {
      const int64_t v = frontier[i], first = indptr[v], degree = indptr[v + 1] - first;
      if (sample >= degree) return copy(i, skip, count, at);
      prefetch(indptr, indices, edge_ids, frontier, offsets, n, i);
      picked.resize(sample);
      sample_row(seed, i, degree, sample, picked.data());
      for (int64_t j = 0; j < count; ++j) {
        const int64_t p = first + picked[skip + j];
        src[at + j] = static_cast<V>(v);
        dst[at + j] = indices[p];
        ids[at + j] = edge_ids ? edge_ids[p] : static_cast<E>(p);
      }
    };
    stretches(offsets, n, begin + from, begin + to, pick);
  });
}

// out[i] = values[ids[i]], of items of `width` bytes.
template <typename E>
void gather(const uint8_t* values, int width, const E* ids, int64_t n, int threads, uint8_t* out) {
  auto run = [&]<typename T>(T) {
    auto from = reinterpret_cast<const T*>(values);
    auto to = reinterpret_cast<T*>(out);
    parallel_ranges(n, threads, int64_t{1} << 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        if (i + 32 < end) __builtin_prefetch(from + ids[i + 32]);
        to[i] = from[ids[i]];
      }
    });
  };
  switch (width) {
    case 1: return run(uint8_t{});
    case 2: return run(uint16_t{});
    case 4: return run(uint32_t{});
    case 8: return run(uint64_t{});
    default:
      parallel_ranges(n, threads, int64_t{1} << 16, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i)
          memcpy(out + i * width, values + static_cast<int64_t>(ids[i]) * width, width);
      });
  }
}

}  // namespace vineyard::graph
