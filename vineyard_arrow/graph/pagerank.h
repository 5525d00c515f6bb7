// PageRank by pulling over the in-rows: no two threads write one vertex, and sums have one order.
#pragma once

#include <cmath>

#include "kernel.h"

namespace vineyard::graph {

struct Convergence {
  int64_t iterations;
  double change;  // the sum over all vertices of the last iteration's changes
};

// `ranks` holds the start and gets the result; `teleport` sums to 1, or is null for 1 / n each.
// `out_weights` has the sum of each vertex's out-edges' weights, `in_weights` the weights in the
// order of `in` (null: every edge weighs 1).
template <class I>
Convergence pagerank(Run& run, const Rows<I>& in, const double* out_weights,
                     const double* in_weights, const double* teleport, double alpha,
                     int64_t max_iter, double tol, double* ranks) {
  constexpr int64_t kAhead = 64;
  const int64_t n = in.size, last = in.edges() - 1;
  const double even = 1.0 / static_cast<double>(n);
  const Cuts cuts = cut_by_edges(n, in.indptr);
  const Cuts slices = cut_evenly(n, 1 << 14);
  Scratch<double> memory(n);
  double* const gives = memory.data();  // what a vertex passes on along one unit of weight
  std::vector<double> dangling(slices.size()), changes(cuts.size());
  Convergence done{0, std::numeric_limits<double>::infinity()};
  while (done.iterations < max_iter && !(done.change < tol)) {
    run.blocks(slices, [&](int64_t b, int64_t begin, int64_t end, int) {
      double sum = 0;
      for (int64_t v = begin; v < end; ++v) {
        const double weight = out_weights[v];
        if (weight > 0) {
          gives[v] = alpha * ranks[v] / weight;
        } else {
          gives[v] = 0;
          sum += ranks[v];
        }
      }
      dangling[b] = sum;
    });
    double lost = 0;
    for (double d : dangling) lost += d;
    const double base = 1 - alpha + alpha * lost;
    run.blocks(cuts, [&](int64_t b, int64_t begin, int64_t end, int) {
      double change = 0;
      for (int64_t v = begin; v < end; ++v) {
        double sum = 0;
        const int64_t stop = in.end(v);
        for (int64_t i = in.begin(v); i < stop; ++i) {
          // Rows are short: without this, each mispredicted end of one would wait for memory.
          __builtin_prefetch(gives + in.indices[std::min(i + kAhead, last)]);
          const double given = gives[in.indices[i]];
          sum += in_weights == nullptr ? given : in_weights[i] * given;
        }
        const double rank = sum + base * (teleport == nullptr ? even : teleport[v]);
        change += std::abs(rank - ranks[v]);
        ranks[v] = rank;
      }
      changes[b] = change;
    });
    done.change = 0;
    for (double c : changes) done.change += c;
    ++done.iterations;
  }
  return done;
}

// The sum of each row's weights.
inline void sum_rows(Run& run, int64_t n, const int64_t* indptr, const Weights& weights,
                     double* sums) {
  run.blocks(cut_by_edges(n, indptr), [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t v = begin; v < end; ++v) {
      double sum = 0;
      for (int64_t i = indptr[v]; i < indptr[v + 1]; ++i) sum += weights[i];
      sums[v] = sum;
    }
  });
}

// Weights in the order of the in-rows, whose edges are `edges`.
inline void gather(Run& run, int64_t n, const Ids& edges, const Weights& weights, double* result) {
  run.blocks(cut_evenly(n, 1 << 16), [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) result[i] = weights.of_edge(edges[i]);
  });
}

// The first weight that is not finite and >= 0, or -1.
inline int64_t find_bad(Run& run, int64_t n, const Weights& weights) {
  std::atomic<int64_t> first{std::numeric_limits<int64_t>::max()};
  run.blocks(cut_evenly(n, 1 << 16), [&](int64_t, int64_t begin, int64_t end, int) {
    if (begin > first) return;
    for (int64_t i = begin; i < end; ++i) {
      const double w = weights.raw(i);
      if (w >= 0 && w <= std::numeric_limits<double>::max()) continue;
      for (int64_t seen = first; i < seen && !first.compare_exchange_weak(seen, i);) {
      }
      return;
    }
  });
  return first == std::numeric_limits<int64_t>::max() ? -1 : first.load();
}

}  // namespace vineyard::graph
