// The simple undirected view of a graph, and what is defined on it: triangles and cores.
#pragma once

#include <memory>

#include "traversal.h"

namespace vineyard::graph {

// Every neighbour once, whatever the direction and number of edges, and no self-loops. Rows lie
// where there is room for all edges in and out, so that one pass fills them.
template <class I>
class Simple {
 public:
  Simple(Run& run, const Rows<I>& out, const Rows<I>& in, bool symmetric)
      : size(out.size), degrees(size), out_(out), in_(in), symmetric_(symmetric) {
    neighbors_ = std::make_unique_for_overwrite<I[]>(out.edges() + (symmetric ? 0 : in.edges()));
    run.blocks(cut_by_edges(size, out.indptr), [&](int64_t, int64_t begin, int64_t end, int) {
      for (int64_t v = begin; v < end; ++v) degrees[v] = merge(static_cast<I>(v));
    });
  }

  std::span<const I> operator[](int64_t v) const {
    return {neighbors_.get() + begin(v), static_cast<size_t>(degrees[v])};
  }

  const int64_t size;
  std::vector<int64_t> degrees;

 private:
  int64_t begin(int64_t v) const { return out_.begin(v) + (symmetric_ ? 0 : in_.begin(v)); }

  int64_t merge(I v) {
    const auto a = out_[v], b = symmetric_ ? std::span<const I>{} : in_[v];
    I* const first = neighbors_.get() + begin(v);
    I* last = first;
    size_t i = 0, j = 0;
    while (i < a.size() || j < b.size()) {
      I u;
      if (j == b.size() || (i < a.size() && a[i] <= b[j])) u = a[i++]; else u = b[j++];
      if (u != v && (last == first || last[-1] != u)) *last++ = u;
    }
    return last - first;
  }

  const Rows<I> out_, in_;
  const bool symmetric_;
  std::unique_ptr<I[]> neighbors_;
};

// triangles[v] becomes how many triangles v is a corner of, degrees[v] how many neighbours it has.
//
// Vertices are ranked by descending degree and edges led to the higher one, so that no row is long
// (Latapy 2008, "Main-memory triangle computations for very large (sparse (power-law)) graphs").
// A triangle is w < u < r by rank: u marks its higher ones in a bitmap, and for each lower r the
// part of its row before u is looked up there.
template <class I>
void count_triangles(Run& run, const Rows<I>& out, const Rows<I>& in, bool symmetric,
                     int64_t* triangles, int64_t* degrees) {
  const Simple<I> graph(run, out, in, symmetric);
  const int64_t n = graph.size;
  std::copy(graph.degrees.begin(), graph.degrees.end(), degrees);
  std::vector<I> order(n), ranks(n);
  for (int64_t v = 0; v < n; ++v) order[v] = static_cast<I>(v);
  std::stable_sort(order.begin(), order.end(),
                   [&](I a, I b) { return graph.degrees[a] > graph.degrees[b]; });
  for (int64_t r = 0; r < n; ++r) ranks[order[r]] = static_cast<I>(r);
  const Cuts slices = cut_evenly(n, 1 << 10);
  std::vector<int64_t> down(n + 1), up(n + 1);
  run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t u = begin; u < end; ++u) {
      for (const I r : graph[order[u]]) ++(ranks[r] > static_cast<I>(u) ? down : up)[u + 1];
    }
  });
  for (int64_t u = 0; u < n; ++u) {
    down[u + 1] += down[u];
    up[u + 1] += up[u];
  }
  auto lower = std::make_unique_for_overwrite<I[]>(down[n]);
  run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t u = begin; u < end; ++u) {
      I* next = lower.get() + down[u];
      for (const I r : graph[order[u]]) {
        if (ranks[r] > static_cast<I>(u)) *next++ = ranks[r];
      }
    }
  });
  // Turned round in order of u, so that rows of higher ones ascend; places[i] is where u then
  // lies in the row of lower[i].
  auto higher = std::make_unique_for_overwrite<I[]>(up[n]);
  auto places = std::make_unique_for_overwrite<I[]>(down[n]);
  std::vector<I> filled(n);
  for (int64_t u = 0; u < n; ++u) {
    for (int64_t i = down[u]; i < down[u + 1]; ++i) {
      places[i] = filled[lower[i]]++;
      higher[up[lower[i]] + places[i]] = static_cast<I>(u);
    }
  }
  struct Tally {
    std::vector<uint64_t> marks;
    std::vector<int64_t> counts;
  };
  std::vector<Tally> tallies(run.threads);
  auto count = [&](int64_t u, uint64_t* marks, int64_t* counts) {
    if (up[u] == up[u + 1]) return;
    const Rows<I> above{n, up.data(), higher.get()};
    for (const I w : above[u]) marks[w / 64] |= uint64_t{1} << (w % 64);
    int64_t all = 0;
    for (int64_t i = down[u]; i < down[u + 1]; ++i) {
      const I* const row = higher.get() + up[lower[i]];
      int64_t found = 0;
      for (I k = 0; k < places[i]; ++k) {
        const I w = row[k];
        const int64_t hit = marks[w / 64] >> (w % 64) & 1;
        found += hit;
        counts[w] += hit;
      }
      counts[lower[i]] += found;
      all += found;
    }
    counts[u] += all;
    for (const I w : above[u]) marks[w / 64] = 0;
  };
  run.blocks(cut_by_edges(n, down.data(), 1 << 12),
             [&](int64_t, int64_t begin, int64_t end, int thread) {
    auto& [marks, counts] = tallies[thread];
    if (counts.empty()) {
      marks.resize(words(n));
      counts.resize(n);
    }
    for (int64_t u = begin; u < end; ++u) count(u, marks.data(), counts.data());
  });
  run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t u = begin; u < end; ++u) {
      int64_t sum = 0;
      for (const Tally& tally : tallies) sum += tally.counts.empty() ? 0 : tally.counts[u];
      triangles[order[u]] = sum;
    }
  });
}

// cores[v] becomes the largest k for which v lies in a part where everyone has k neighbours.
// Peeling by levels with a buffer per thread (Kabir and Madduri 2017, "Parallel k-core
// decomposition on multicore platforms").
template <class I>
void core_numbers(Run& run, const Rows<I>& out, const Rows<I>& in, bool symmetric,
                  int64_t* cores) {
  const Simple<I> graph(run, out, in, symmetric);
  std::vector<I> alive(graph.size);
  for (int64_t v = 0; v < graph.size; ++v) {
    alive[v] = static_cast<I>(v);
    cores[v] = graph.degrees[v];  // until it is peeled: how many neighbours are left
  }
  std::vector<std::vector<I>> peeled(run.threads);
  while (!alive.empty()) {
    int64_t k = std::numeric_limits<int64_t>::max();
    for (const I v : alive) k = std::min(k, cores[v]);
    std::vector<I> frontier;
    for (const I v : alive) {
      if (cores[v] == k) frontier.push_back(v);
    }
    const auto first = static_cast<int64_t>(frontier.size());
    const int64_t slice = std::max<int64_t>(64, first / 256);
    run.blocks(cut_evenly(first, slice), [&](int64_t, int64_t begin, int64_t end, int thread) {
      auto& stack = peeled[thread];
      for (int64_t i = begin; i < end; ++i) {
        stack.push_back(frontier[i]);
        while (!stack.empty()) {
          const I v = stack.back();
          stack.pop_back();
          for (const I u : graph[v]) {
            std::atomic_ref<int64_t> left(cores[u]);
            if (left.load(std::memory_order_relaxed) <= k) continue;
            const int64_t before = left.fetch_sub(1, std::memory_order_relaxed);
            if (before == k + 1) stack.push_back(u);
            if (before <= k) left.fetch_add(1, std::memory_order_relaxed);
          }
        }
      }
    });
    run.check();
    std::erase_if(alive, [&](I v) { return cores[v] <= k; });
  }
}

}  // namespace vineyard::graph
