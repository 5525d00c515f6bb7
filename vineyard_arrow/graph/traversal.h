// Breadth-first search that turns its direction (Beamer, Asanovic and Patterson 2012,
// "Direction-optimizing breadth-first search").
#pragma once

#include "kernel.h"

namespace vineyard::graph {

inline int64_t words(int64_t bits) { return (bits + 63) / 64; }

// Vertices met by one thread, until they are put behind each other.
template <class I>
void concatenate(std::vector<std::vector<I>>& parts, std::vector<I>& whole) {
  whole.clear();
  for (auto& part : parts) {
    whole.insert(whole.end(), part.begin(), part.end());
    part.clear();
  }
}

// levels[v] is -1 before, and after for what no source reaches. While the frontier is small its
// out-edges are followed; while it is large every vertex not yet reached looks for a neighbour
// in it among its in-edges, and stops at the first.
//
// `parents`, unless null, are the largest id before, and after for sources and what is not reached.
// The parent of a vertex is its smallest in-neighbour one level nearer, whoever came first: the
// first that is found among its in-edges, and the least of those that come by out-edges.
template <class I>
void bfs(Run& run, const Rows<I>& out, const Rows<I>& in, std::vector<I> frontier,
         int32_t* levels, I* parents = nullptr) {
  constexpr int64_t kAlpha = 15, kBeta = 18;  // Beamer's
  constexpr int64_t kFew = 1 << 15;  // edges that are followed before another thread has started
  const int64_t n = out.size;
  int64_t unseen = out.edges();
  for (I v : frontier) levels[v] = 0;
  std::vector<std::vector<I>> found(run.threads);
  std::vector<uint64_t> now, next;
  Cuts slices;
  int32_t level = 0;
  while (!frontier.empty()) {
    int64_t ahead = 0;
    for (I v : frontier) ahead += out.degree(v);
    unseen -= ahead;
    if (ahead > unseen / kAlpha && ahead > 1024) {
      if (slices.empty()) {
        slices = cut_evenly(n, n < kFew * 4 ? n : 1 << 13);
        now.resize(words(n));
        next.resize(words(n));
      }
      std::fill(now.begin(), now.end(), 0);
      for (I v : frontier) now[v / 64] |= uint64_t{1} << (v % 64);
      std::vector<int64_t> woken(run.threads);
      int64_t awake = static_cast<int64_t>(frontier.size()), before;
      do {
        ++level;
        std::fill(woken.begin(), woken.end(), 0);
        run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int thread) {
          int64_t count = 0;
          for (int64_t v = begin; v < end;) {  // a word of 64 vertices at a time
            uint64_t word = 0;
            const int64_t stop = std::min(v + 64, end), first = v / 64;
            for (; v < stop; ++v) {
              if (levels[v] >= 0) continue;
              for (const I u : in[v]) {
                if (now[u / 64] >> (u % 64) & 1) {
                  levels[v] = level;
                  if (parents != nullptr) parents[v] = u;
                  word |= uint64_t{1} << (v % 64);
                  ++count;
                  break;
                }
              }
            }
            next[first] = word;
          }
          woken[thread] += count;
        });
        before = awake;
        awake = 0;
        for (int64_t w : woken) awake += w;
        std::swap(now, next);
      } while (awake > 0 && (awake >= before || awake > n / kBeta));
      frontier.clear();
      for (int64_t w = 0; w < words(n); ++w) {
        for (uint64_t word = now[w]; word != 0; word &= word - 1) {
          frontier.push_back(static_cast<I>(64 * w + std::countr_zero(word)));
        }
      }
      unseen = 0;
      for (int64_t v = 0; v < n; ++v) unseen += levels[v] < 0 ? out.degree(v) : 0;
      for (I v : frontier) unseen += out.degree(v);
      continue;
    }
    ++level;
    const auto size = static_cast<int64_t>(frontier.size());
    auto step = [&](int64_t, int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        for (const I u : out[frontier[i]]) {
          const int32_t seen = load(levels[u]);
          if (seen >= 0 && seen < level) continue;
          if (seen < 0 && replace(levels[u], -1, level)) found[thread].push_back(u);
          if (parents != nullptr) lower(parents[u], frontier[i]);
        }
      }
    };
    run.blocks(cut_evenly(size, ahead < kFew ? size : std::max<int64_t>(64, size / 256)), step);
    run.check();
    concatenate(found, frontier);
  }
}

}  // namespace vineyard::graph
