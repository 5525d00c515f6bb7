// Whether index arrays that somebody else wrote can be trusted: nothing points outside, rows are
// sorted, ids are a permutation. Returns a Fault and where it was found first.
#pragma once

#include <stdint.h>

#include <atomic>
#include <vector>

#include "csr.h"
#include "parallel.h"

namespace vineyard::graph {

enum Fault : int { kSound, kIndptr, kRange, kOrder, kEdgeId, kTwice };

struct Verdict {
  int fault = kSound;
  int64_t where = -1;
};

inline Verdict check_indptr(const int64_t* indptr, int64_t num_rows, int64_t positions) {
  if (indptr[0] != 0) return {kIndptr, 0};
  for (int64_t r = 0; r < num_rows; ++r)
    if (indptr[r + 1] < indptr[r] || indptr[r + 1] > positions) return {kIndptr, r};
  if (indptr[num_rows] != positions) return {kIndptr, num_rows};
  return {};
}

// Of rows whose indptr is sound.
template <typename V>
Verdict check_indices(const int64_t* indptr, int64_t num_rows, const V* indices, int64_t num_cols,
                      int threads) {
  std::vector<Verdict> found(std::max(1, threads));
  parallel_ranges(num_rows, threads, kGrain, [&](int64_t begin, int64_t end, int w) {
    for (int64_t r = begin; r < end && !found[w].fault; ++r)
      for (int64_t i = indptr[r]; i < indptr[r + 1]; ++i) {
        if (static_cast<uint64_t>(indices[i]) >= static_cast<uint64_t>(num_cols)) {
          found[w] = {kRange, r};
          break;
        }
        if (i > indptr[r] && indices[i] < indices[i - 1]) {
          found[w] = {kOrder, r};
          break;
        }
      }
  });
  for (auto& each : found)
    if (each.fault) return each;
  return {};
}

// Each id below `count` once; or, of an undirected graph, once or twice.
template <typename E>
Verdict check_edge_ids(const E* ids, int64_t positions, int64_t count, bool twice) {
  std::vector<uint8_t> seen(count, 0);
  for (int64_t i = 0; i < positions; ++i) {
    if (static_cast<uint64_t>(ids[i]) >= static_cast<uint64_t>(count)) return {kEdgeId, i};
    if (++seen[ids[i]] > (twice ? 2 : 1)) return {kTwice, i};
  }
  for (int64_t i = 0; i < count; ++i)
    if (!seen[i]) return {kEdgeId, i};
  return {};
}

// That in-edges are the out-edges: edge `ids[i]` at in-position i, of row d and source s, is at
// out-position ids[i], in row s, and goes to d. All arrays are sound by themselves.
template <typename V, typename E>
Verdict check_transpose(const int64_t* out_indptr, const V* out_indices, const int64_t* in_indptr,
                        const V* in_indices, const E* ids, int64_t num_dst) {
  for (int64_t d = 0; d < num_dst; ++d)
    for (int64_t i = in_indptr[d]; i < in_indptr[d + 1]; ++i) {
      int64_t s = in_indices[i], p = ids[i];
      if (p < out_indptr[s] || p >= out_indptr[s + 1] ||
          static_cast<int64_t>(out_indices[p]) != d)
        return {kEdgeId, i};
    }
  return {};
}

}  // namespace vineyard::graph
