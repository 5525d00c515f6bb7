// Edges, given as pairs of vertex ids, to sorted rows (CSR) and their transpose (CSC).
//
// Edges are first partitioned by the high bits of their row into buckets that fit a cache, both
// threads writing to all of them; then each bucket is radix-sorted by itself. All is stable: equal
// pairs keep the order they were given in.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "parallel.h"
#include "scratch.h"

namespace vineyard::graph {

constexpr int kMaxBucketBits = 9;         // streams that a thread can write to at once
constexpr int64_t kEdgesPerBucket = 16384;
constexpr int kDigitBits = 11;            // counters of a radix pass fit the first-level cache
constexpr int64_t kGrain = 1 << 16;       // fewer edges are not worth a thread
constexpr int64_t kSmallBucket = 512;     // sorted by comparison

inline int bits_of(uint64_t count) { return count <= 1 ? 0 : std::bit_width(count - 1); }

// An edge in a bucket: its row within the bucket and its column as one sort key, and what it
// carries. Packed, all three share one word.
struct PackedEdge {
  uint64_t word;
  static PackedEdge make(uint64_t key, uint64_t load, int load_bits) {
    return {key << load_bits | load};
  }
  uint64_t key(int load_bits) const { return word >> load_bits; }
  uint64_t load(int load_bits) const { return word & ((uint64_t{1} << load_bits) - 1); }
  bool operator<(const PackedEdge& other) const { return word < other.word; }
};

struct WideEdge {
  uint64_t key_, load_;
  static WideEdge make(uint64_t key, uint64_t load, int) { return {key, load}; }
  uint64_t key(int) const { return key_; }
  uint64_t load(int) const { return load_; }
  bool operator<(const WideEdge& other) const {
    return key_ != other.key_ ? key_ < other.key_ : load_ < other.load_;
  }
};

// How rows, columns and loads of a given number share a word.
struct Layout {
  int shift;      // row >> shift is its bucket
  int col_bits, load_bits;
  int64_t num_buckets;

  Layout(int64_t rows, int64_t cols, uint64_t loads, int64_t edges) {
    int wanted = std::min(kMaxBucketBits, bits_of(std::max<int64_t>(1, edges / kEdgesPerBucket)));
    shift = std::max(0, bits_of(rows) - wanted);
    col_bits = bits_of(cols), load_bits = bits_of(loads);
    num_buckets = rows == 0 ? 0 : ((rows - 1) >> shift) + 1;
  }
  int key_bits() const { return shift + col_bits; }
  bool packs() const { return key_bits() + load_bits < 64; }
};

// Where each worker writes in each bucket, so that buckets are in order of the input.
class Offsets {
 public:
  Offsets(int threads, int64_t buckets)
      : buckets_(buckets), stride_((buckets + 15) / 8 * 8), at_(threads * stride_, 0),
        begin_(buckets + 1, 0), threads_(threads) {}

  int64_t* of(int worker) { return at_.data() + worker * stride_; }

  // From counts to first places.
  void sum() {
    int64_t total = 0;
    for (int64_t b = 0; b < buckets_; ++b) {
      begin_[b] = total;
      for (int w = 0; w < threads_; ++w) {
        int64_t n = of(w)[b];
        of(w)[b] = total;
        total += n;
      }
    }
    begin_[buckets_] = total;
  }
  int64_t begin(int64_t bucket) const { return begin_[bucket]; }
  int64_t total() const { return begin_[buckets_]; }

 private:
  int64_t buckets_, stride_;
  std::vector<int64_t> at_, begin_;
  int threads_;
};

inline int threads_for(int64_t edges, int threads) {
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, edges / kGrain)));
}

// Sorts n edges by key, stable, and hands them out in order: emit(position, edge). `count` is
// called with each edge once, in any order.
template <typename Edge, typename Count, typename Emit>
void sort_bucket(Edge* edges, int64_t n, int key_bits, int load_bits, Scratch<Edge>& spare,
                 Count&& count, Emit&& emit) {
  if (n <= kSmallBucket || key_bits == 0) {
    if (key_bits) std::sort(edges, edges + n);  // loads ascend in the input: so it is stable
    for (int64_t i = 0; i < n; ++i) count(edges[i]), emit(i, edges[i]);
    return;
  }
  int passes = (key_bits + kDigitBits - 1) / kDigitBits;
  int width = (key_bits + passes - 1) / passes;
  uint64_t mask = (uint64_t{1} << width) - 1;
  std::vector<int64_t> places(passes << width, 0);
  for (int64_t i = 0; i < n; ++i) {
    count(edges[i]);
    uint64_t key = edges[i].key(load_bits);
    for (int p = 0; p < passes; ++p) ++places[(p << width) + (key >> (p * width) & mask)];
  }
  Edge* from = edges;
  Edge* to = passes > 1 ? spare.grow(n) : nullptr;
  for (int p = 0; p < passes; ++p) {
    int64_t* place = places.data() + (p << width);
    int64_t total = 0;
    for (uint64_t d = 0; d <= mask; ++d) {
      int64_t c = place[d];
      place[d] = total;
      total += c;
    }
    int shift = p * width;
    if (p + 1 == passes) {
      for (int64_t i = 0; i < n; ++i)
        emit(place[from[i].key(load_bits) >> shift & mask]++, from[i]);
    } else {
      for (int64_t i = 0; i < n; ++i)
        to[place[from[i].key(load_bits) >> shift & mask]++] = from[i];
      std::swap(from, to);
    }
  }
}

// Writes where the rows of one bucket begin, from how many edges each has.
inline void write_indptr(int64_t* indptr, const int64_t* counts, int64_t rows, int64_t begin) {
  for (int64_t r = 0; r < rows; ++r) {
    indptr[r] = begin;
    begin += counts[r];
  }
}

// Edges as they were given; an end that is missing is `none`.
template <typename V>
struct Pairs {
  const V* src;
  const V* dst;
  int64_t count;
  static constexpr V none = std::numeric_limits<V>::max();
};

template <typename V, typename E, typename Edge>
int64_t sort_edges(const Pairs<V>& pairs, int64_t num_src, const Layout& layout, Offsets& offsets,
                   int threads, bool keep_rows, int64_t* indptr, V* indices, E* rows) {
  int parts = threads_for(pairs.count, threads);
  int64_t total = offsets.total();
  Scratch<Edge> edges(total);
  run_workers(parts, [&](int w) {
    int64_t* at = offsets.of(w);
    int64_t end = pairs.count * (w + 1) / parts;
    for (int64_t i = pairs.count * w / parts; i < end; ++i) {
      V s = pairs.src[i], d = pairs.dst[i];
      if (s == pairs.none || d == pairs.none) continue;
      uint64_t low = s & ((uint64_t{1} << layout.shift) - 1);
      edges[at[s >> layout.shift]++] = Edge::make(low << layout.col_bits | d, keep_rows ? i : 0,
                                                  layout.load_bits);
    }
  });
  std::vector<Scratch<Edge>> spare(threads);
  parallel_for(layout.num_buckets, threads_for(total, threads), [&](int64_t b, int w) {
    int64_t begin = offsets.begin(b), n = offsets.begin(b + 1) - begin;
    int64_t first = b << layout.shift;
    int64_t here = std::min(num_src - first, int64_t{1} << layout.shift);
    std::vector<int64_t> counts(here, 0);
    uint64_t col_mask = (uint64_t{1} << layout.col_bits) - 1;
    sort_bucket(
        edges.data() + begin, n, layout.key_bits(), layout.load_bits, spare[w],
        [&](const Edge& e) { ++counts[e.key(layout.load_bits) >> layout.col_bits]; },
        [&](int64_t i, const Edge& e) {
          indices[begin + i] = static_cast<V>(e.key(layout.load_bits) & col_mask);
          if (keep_rows) rows[begin + i] = static_cast<E>(e.load(layout.load_bits));
        });
    write_indptr(indptr + first, counts.data(), here, begin);
  });
  indptr[num_src] = total;
  return total;
}

// Counts pairs with both ends by bucket.
template <typename V>
void count_pairs(const Pairs<V>& pairs, const Layout& layout, Offsets& offsets, int threads) {
  int parts = threads_for(pairs.count, threads);
  run_workers(parts, [&](int w) {
    int64_t* at = offsets.of(w);
    int64_t end = pairs.count * (w + 1) / parts;
    for (int64_t i = pairs.count * w / parts; i < end; ++i)
      if (pairs.src[i] != pairs.none && pairs.dst[i] != pairs.none)
        ++at[pairs.src[i] >> layout.shift];
  });
  offsets.sum();
}

// Sorted rows of the pairs that have both ends: indptr[num_src + 1], indices and rows (where in
// the input each came from; may be null), which hold `pairs.count` at most. Returns how many.
template <typename V, typename E>
int64_t build_csr(const V* src, const V* dst, int64_t count, int64_t num_src, int64_t num_dst,
                  int threads, int64_t* indptr, V* indices, E* rows) {
  Pairs<V> pairs{src, dst, count};
  bool keep = rows != nullptr;
  Layout layout(num_src, num_dst, keep ? count : 1, count);
  Offsets offsets(threads, layout.num_buckets);
  if (layout.num_buckets) count_pairs(pairs, layout, offsets, threads);
  return layout.packs()
             ? sort_edges<V, E, PackedEdge>(pairs, num_src, layout, offsets, threads, keep, indptr,
                                            indices, rows)
             : sort_edges<V, E, WideEdge>(pairs, num_src, layout, offsets, threads, keep, indptr,
                                          indices, rows);
}

// Calls f(row, begin, end) for the rows that positions [begin, end) lie in.
template <typename F>
void rows_between(const int64_t* indptr, int64_t num_rows, int64_t begin, int64_t end, F&& f) {
  int64_t row = std::upper_bound(indptr, indptr + num_rows + 1, begin) - indptr - 1;
  for (; begin < end; ++row) {
    int64_t stop = std::min(end, indptr[row + 1]);
    if (begin < stop) f(row, begin, stop);
    begin = std::max(begin, stop);
  }
}

template <typename V, typename E, typename Edge>
void transpose(const int64_t* indptr, const V* indices, int64_t num_src, int64_t num_dst,
               const Layout& layout, int threads, int64_t* out_indptr, V* out_indices,
               E* out_positions) {
  int64_t total = indptr[num_src];
  int parts = threads_for(total, threads);
  Offsets offsets(parts, layout.num_buckets);
  run_workers(parts, [&](int w) {
    int64_t* at = offsets.of(w);
    int64_t end = total * (w + 1) / parts;
    for (int64_t i = total * w / parts; i < end; ++i) ++at[indices[i] >> layout.shift];
  });
  offsets.sum();
  Scratch<Edge> edges(total);
  run_workers(parts, [&](int w) {
    int64_t* at = offsets.of(w);
    uint64_t mask = (uint64_t{1} << layout.shift) - 1;
    rows_between(indptr, num_src, total * w / parts, total * (w + 1) / parts,
                 [&](int64_t row, int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i)
                     edges[at[indices[i] >> layout.shift]++] = Edge::make(
                         (indices[i] & mask) << layout.col_bits | row, i, layout.load_bits);
                 });
  });
  parallel_for(layout.num_buckets, parts, [&](int64_t b, int) {
    int64_t begin = offsets.begin(b), end = offsets.begin(b + 1);
    int64_t first = b << layout.shift;
    int64_t here = std::min(num_dst - first, int64_t{1} << layout.shift);
    std::vector<int64_t> at(here, 0);
    for (int64_t i = begin; i < end; ++i)
      ++at[edges[i].key(layout.load_bits) >> layout.col_bits];
    write_indptr(out_indptr + first, at.data(), here, begin);
    std::copy(out_indptr + first, out_indptr + first + here, at.begin());
    uint64_t col_mask = (uint64_t{1} << layout.col_bits) - 1;
    for (int64_t i = begin; i < end; ++i) {
      uint64_t key = edges[i].key(layout.load_bits);
      int64_t to = at[key >> layout.col_bits]++;
      out_indices[to] = static_cast<V>(key & col_mask);
      out_positions[to] = static_cast<E>(edges[i].load(layout.load_bits));
    }
  });
  out_indptr[num_dst] = total;
}

// The transpose of sorted rows, sorted too, with the position that each edge has in them.
template <typename V, typename E>
void build_csc(const int64_t* indptr, const V* indices, int64_t num_src, int64_t num_dst,
               int threads, int64_t* out_indptr, V* out_indices, E* out_positions) {
  int64_t total = indptr[num_src];
  Layout layout(num_dst, num_src, total, total);
  if (layout.packs())
    transpose<V, E, PackedEdge>(indptr, indices, num_src, num_dst, layout, threads, out_indptr,
                                out_indices, out_positions);
  else
    transpose<V, E, WideEdge>(indptr, indices, num_src, num_dst, layout, threads, out_indptr,
                              out_indices, out_positions);
}

// Rows with both directions, of CSR and CSC where the source of every edge is not above its
// destination: first the lower neighbours, then the others. A self-loop is there once.
template <typename V, typename E>
void merge_both(const int64_t* out_indptr, const V* out_indices, const int64_t* in_indptr,
                const V* in_indices, const E* in_positions, int64_t num, int threads,
                int64_t* indptr, V* indices, E* edge_ids) {
  auto lower = [&](int64_t v) {  // in-edges from below; loops are the last of the row
    const V* begin = in_indices + in_indptr[v];
    const V* end = in_indices + in_indptr[v + 1];
    return std::lower_bound(begin, end, static_cast<V>(v)) - begin;
  };
  parallel_ranges(num, threads, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t v = begin; v < end; ++v)
      indptr[v + 1] = lower(v) + out_indptr[v + 1] - out_indptr[v];
  });
  indptr[0] = 0;
  for (int64_t v = 0; v < num; ++v) indptr[v + 1] += indptr[v];
  parallel_for((num + 4095) / 4096, threads_for(out_indptr[num], threads), [&](int64_t b, int) {
    for (int64_t v = b * 4096; v < std::min(num, (b + 1) * 4096); ++v) {
      int64_t to = indptr[v], n = lower(v), from = in_indptr[v];
      std::copy_n(in_indices + from, n, indices + to);
      std::copy_n(in_positions + from, n, edge_ids + to);
      to += n;
      for (int64_t i = out_indptr[v]; i < out_indptr[v + 1]; ++i, ++to) {
        indices[to] = out_indices[i];
        edge_ids[to] = static_cast<E>(i);
      }
    }
  });
}

}  // namespace vineyard::graph
