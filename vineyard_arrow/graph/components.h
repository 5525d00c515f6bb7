// Components: weak ones by Afforest (Sutton, Ben-Nun and Barak 2018, "Optimizing parallel graph
// connectivity computation via subgraph sampling"), strong ones by trimming, one forward and
// backward search for the giant one (Slota, Rajamanickam and Madduri 2014, "BFS and
// coloring-based parallel algorithms for strongly connected components"), and Tarjan's for the
// rest, with a stack of its own.
#pragma once

#include "traversal.h"

namespace vineyard::graph {

template <class I>
void link(std::vector<I>& roots, I a, I b) {
  I p = load(roots[a]), q = load(roots[b]);
  while (p != q) {
    const I high = std::max(p, q), low = std::min(p, q);
    const I above = load(roots[high]);
    if (above == low || (above == high && replace(roots[high], high, low))) return;
    p = load(roots[load(roots[high])]);
    q = load(roots[low]);
  }
}

template <class I>
void compress(Run& run, std::vector<I>& roots, const Cuts& slices) {
  run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t v = begin; v < end; ++v) {
      I root = load(roots[v]);
      for (I above; (above = load(roots[root])) != root;) root = above;
      store(roots[v], root);
    }
  });
}

template <class I>
std::vector<I> weak_components(Run& run, const Rows<I>& out, const Rows<I>& in) {
  constexpr int64_t kSampled = 2, kProbes = 1024;
  const int64_t n = out.size;
  const Cuts slices = cut_evenly(n, 1 << 13);
  std::vector<I> roots(n);
  for (int64_t v = 0; v < n; ++v) roots[v] = static_cast<I>(v);
  for (int64_t k = 0; k < kSampled; ++k) {
    run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
      for (int64_t v = begin; v < end; ++v) {
        if (k < out.degree(v)) link(roots, static_cast<I>(v), out[v][k]);
      }
    });
    compress(run, roots, slices);
  }
  // Most vertices hang together already; edges inside the largest part need no look.
  std::vector<I> probes;
  for (int64_t i = 0; n > 0 && i < kProbes; ++i) {
    probes.push_back(roots[below(mix(i), static_cast<uint64_t>(n))]);
  }
  std::sort(probes.begin(), probes.end());
  I giant = 0;
  for (size_t i = 0, longest = 0, run_length = 0; i < probes.size(); ++i) {
    run_length = i > 0 && probes[i] == probes[i - 1] ? run_length + 1 : 1;
    if (run_length > longest) {
      longest = run_length;
      giant = probes[i];
    }
  }
  run.blocks(cut_by_edges(n, out.indptr), [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t v = begin; v < end; ++v) {
      if (load(roots[v]) == giant) continue;
      const auto next = out[v];
      for (size_t k = kSampled; k < next.size(); ++k) link(roots, static_cast<I>(v), next[k]);
      for (const I u : in[v]) link(roots, static_cast<I>(v), u);
    }
  });
  compress(run, roots, slices);
  return roots;
}

// Tarjan 1972, over the vertices that have no root yet, in the graph of those.
template <class I>
void tarjan(Run& run, const Rows<I>& out, std::vector<I>& roots) {
  constexpr I none = std::numeric_limits<I>::max();
  struct Frame {
    I vertex, index;
    int64_t edge;
  };
  std::vector<I> low(out.size, none);
  std::vector<I> open;  // met, and in no component yet
  std::vector<Frame> path;
  I count = 0;
  auto enter = [&](I v) {
    path.push_back({v, count, out.begin(v)});
    open.push_back(v);
    low[v] = count++;
  };
  int64_t steps = 0;
  for (int64_t start = 0; start < out.size; ++start) {
    if (roots[start] != none) continue;
    enter(static_cast<I>(start));
    while (!path.empty()) {
      if (++steps % (1 << 16) == 0) run.check();
      Frame& top = path.back();
      const I v = top.vertex;
      const int64_t stop = out.end(v);
      I below = none;
      while (top.edge < stop && below == none) {
        const I u = out.indices[top.edge++];
        if (roots[u] != none) continue;
        if (low[u] == none) below = u; else low[v] = std::min(low[v], low[u]);
      }
      if (below != none) {
        enter(below);
        continue;
      }
      const bool is_root = low[v] == top.index;
      path.pop_back();
      if (is_root) {
        for (I u = none; u != v; open.pop_back()) roots[u = open.back()] = v;
      } else {
        I& above = low[path.back().vertex];
        above = std::min(above, low[v]);
      }
    }
  }
}

// A vertex with no way in or no way out is a component of its own; without it others may be.
template <class I>
void trim(Run& run, const Rows<I>& out, const Rows<I>& in, std::vector<I>& roots) {
  constexpr int kRounds = 3;  // the rest is Tarjan's
  const Cuts slices = cut_evenly(out.size, 1 << 13);
  auto alone = [&](I v, std::span<const I> next) {
    return std::all_of(next.begin(), next.end(), [&](I u) {
      return u == v || load(roots[u]) != std::numeric_limits<I>::max();
    });
  };
  for (int round = 0; round < kRounds; ++round) {
    run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const I v = static_cast<I>(i);
        if (roots[v] != std::numeric_limits<I>::max()) continue;
        if (alone(v, out[v]) || alone(v, in[v])) store(roots[v], v);
      }
    });
  }
}

template <class I>
std::vector<I> strong_components(Run& run, const Rows<I>& out, const Rows<I>& in) {
  constexpr I none = std::numeric_limits<I>::max();
  constexpr int32_t closed = std::numeric_limits<int32_t>::max();
  const int64_t n = out.size;
  std::vector<I> roots(n, none);
  trim(run, out, in, roots);
  I pivot = none;
  double most = -1;
  for (int64_t v = 0; v < n; ++v) {
    const double ways = static_cast<double>(out.degree(v)) * static_cast<double>(in.degree(v));
    if (roots[v] == none && ways > most) {
      most = ways;
      pivot = static_cast<I>(v);
    }
  }
  if (pivot == none) return roots;
  std::vector<int32_t> there(n), back(n);
  for (int64_t v = 0; v < n; ++v) there[v] = roots[v] == none ? -1 : closed;
  bfs(run, out, in, std::vector<I>{pivot}, there.data());
  for (int64_t v = 0; v < n; ++v) back[v] = there[v] >= 0 && there[v] != closed ? -1 : closed;
  bfs(run, in, out, std::vector<I>{pivot}, back.data());
  for (int64_t v = 0; v < n; ++v) {
    if (back[v] >= 0 && back[v] != closed) roots[v] = pivot;
  }
  tarjan(run, out, roots);
  return roots;
}

}  // namespace vineyard::graph
