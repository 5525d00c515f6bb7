// Edges in sorted rows to the fragments of their ends: to one, or to two if these differ.
//
// Counted first, then written, by the same parts: each part of the positions has its own places
// in each fragment, so all edges come in the order of the rows, on any number of threads.
#pragma once

#include "csr.h"

namespace vineyard::graph {

// The rows, and the fragment of each vertex. With `once`, edges to lower vertices are left out:
// those of undirected rows that are there a second time.
template <typename V>
struct CutRows {
  const int64_t* indptr;
  const V* indices;
  int64_t num_rows;
  const int32_t* src_fids;
  const int32_t* dst_fids;
  bool once;

  // Calls f(row, column, fid of the row, fid of the column) for the edges of part w of `parts`.
  template <typename F>
  void edges(int64_t w, int64_t parts, F&& f) const {
    int64_t total = indptr[num_rows];
    rows_between(indptr, num_rows, total * w / parts, total * (w + 1) / parts,
                 [&](int64_t row, int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i)
                     if (!once || row <= static_cast<int64_t>(indices[i]))
                       f(row, indices[i], src_fids[row], dst_fids[indices[i]]);
                 });
  }
};

// counts[parts][k + 1]: edges of each part for each fragment, and of the part.
template <typename V>
void count_cut(const CutRows<V>& rows, int64_t k, int parts, int64_t* counts) {
  run_workers(parts, [&](int w) {
    int64_t* count = counts + w * (k + 1);
    rows.edges(w, parts, [&](int64_t, V, int32_t own, int32_t other) {
      ++count[k];
      ++count[own];
      if (other != own) ++count[other];
    });
  });
}

// Ends by `src_places` and `dst_places`, and the number of each edge among all. `at`: as counts,
// but where each part begins.
template <typename V, typename E>
void fill_cut(const CutRows<V>& rows, int64_t k, int parts, int64_t* at, const V* src_places,
              const V* dst_places, V* src, V* dst, E* ids) {
  run_workers(parts, [&](int w) {
    int64_t* to = at + w * (k + 1);
    int64_t id = to[k];
    rows.edges(w, parts, [&](int64_t row, V col, int32_t own, int32_t other) {
      V from = src_places[row], into = dst_places[col];
      int64_t i = to[own]++;
      src[i] = from, dst[i] = into, ids[i] = static_cast<E>(id);
      if (other != own) {
        i = to[other]++;
        src[i] = from, dst[i] = into, ids[i] = static_cast<E>(id);
      }
      ++id;
    });
  });
}

}  // namespace vineyard::graph
