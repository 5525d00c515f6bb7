// Shortest paths by delta-stepping (Meyer and Sanders 2003), with buckets per thread and no split
// into light and heavy edges, as in the GAP suite (Beamer, Asanovic and Patterson 2015).
#pragma once

#include "traversal.h"

namespace vineyard::graph {

// Vertices by distance / delta. A window of buckets is kept apart; what lies beyond waits in one
// heap until all of the window is settled, so neither long paths nor one huge weight cost memory.
template <class I>
class Buckets {
 public:
  explicit Buckets(int threads) : parts_(threads) {
    for (Part& part : parts_) part.near.resize(kWindow);
  }

  void push(int thread, uint64_t bucket, I v) {
    Part& part = parts_[thread];
    (bucket - first_ < kWindow ? part.near[bucket - first_] : part.far).push_back(v);
  }

  std::vector<I>& own(int thread) { return parts_[thread].near[current - first_]; }

  // Move on to the next bucket that isn't empty and put its vertices into `frontier`.
  template <class BucketOf>
  bool advance(std::vector<I>& frontier, BucketOf bucket_of) {
    take(frontier);
    while (frontier.empty() && current - first_ + 1 < kWindow) {
      ++current;
      take(frontier);
    }
    if (!frontier.empty()) return true;
    std::vector<I> waiting;
    for (Part& part : parts_) {
      waiting.insert(waiting.end(), part.far.begin(), part.far.end());
      part.far.clear();
    }
    // What was reached on a shorter way meanwhile is settled.
    std::erase_if(waiting, [&](I v) { return bucket_of(v) <= current; });
    if (waiting.empty()) return false;
    uint64_t nearest = std::numeric_limits<uint64_t>::max();
    for (I v : waiting) nearest = std::min(nearest, bucket_of(v));
    current = first_ = nearest;
    for (I v : waiting) push(0, bucket_of(v), v);
    take(frontier);
    return true;
  }

  uint64_t current = 0;

 private:
  static constexpr uint64_t kWindow = 1024;

  struct Part {
    std::vector<std::vector<I>> near;
    std::vector<I> far;
  };

  void take(std::vector<I>& frontier) {
    for (Part& part : parts_) {
      auto& bucket = part.near[current - first_];
      frontier.insert(frontier.end(), bucket.begin(), bucket.end());
      bucket.clear();
    }
  }

  uint64_t first_ = 0;  // bucket of the window
  std::vector<Part> parts_;
};

// distances[v] is infinite before, and after for what no source reaches. The result is the same
// whatever the order of relaxations: the least sum over all paths, added from the source on.
template <class I>
void shortest_paths(Run& run, const Rows<I>& out, const Weights& weights, std::vector<I> frontier,
                    double delta, double* distances) {
  constexpr size_t kFused = 1024;  // a bucket this small is finished by the thread that fills it
  auto bucket_at = [&](double distance) {
    return static_cast<uint64_t>(std::min(distance / delta, 0x1p62));
  };
  auto bucket_of = [&](I v) { return bucket_at(load(distances[v])); };
  for (I v : frontier) distances[v] = 0;
  Buckets<I> buckets(run.threads);
  auto relax = [&](I v, int thread) {
    const double distance = load(distances[v]);
    if (bucket_at(distance) < buckets.current) return;  // settled under a smaller distance
    const int64_t stop = out.end(v);
    for (int64_t i = out.begin(v); i < stop; ++i) {
      const I u = out.indices[i];
      const double further = distance + weights[i];
      double old = load(distances[u]);
      while (further < old) {
        if (replace(distances[u], old, further)) {
          buckets.push(thread, bucket_at(further), u);
          break;
        }
        old = load(distances[u]);
      }
    }
  };
  std::vector<std::vector<I>> small(run.threads);
  do {
    const auto size = static_cast<int64_t>(frontier.size());
    const int64_t slice = std::max<int64_t>(64, size / 256);
    run.blocks(cut_evenly(size, slice), [&](int64_t, int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) relax(frontier[i], thread);
      auto& own = buckets.own(thread);
      while (!own.empty() && own.size() < kFused) {
        std::swap(own, small[thread]);
        for (const I v : small[thread]) relax(v, thread);
        small[thread].clear();
      }
    });
    run.check();
    frontier.clear();
  } while (buckets.advance(frontier, bucket_of));
}

// The parent of a vertex is its smallest in-neighbour on a shortest path that is nearer to the
// source. Where there is none, since edges weigh nothing (or so little that the sum is the same),
// parents are found by a search from the vertices that have one, so they never form a circle.
template <class I>
void path_parents(Run& run, const Rows<I>& out, const Rows<I>& in, const Ids& in_edges,
                  const Weights& weights, const std::vector<I>& sources, const double* distances,
                  I* parents) {
  constexpr I none = std::numeric_limits<I>::max();
  std::vector<uint8_t> rooted(in.size);
  for (I v : sources) rooted[v] = 1;
  std::atomic<int64_t> left{0};
  run.blocks(cut_by_edges(in.size, in.indptr), [&](int64_t, int64_t begin, int64_t end, int) {
    int64_t missed = 0;
    for (int64_t v = begin; v < end; ++v) {
      const double distance = distances[v];
      if (rooted[v] || distance == std::numeric_limits<double>::infinity()) continue;
      for (int64_t i = in.begin(v); i < in.end(v) && parents[v] == none; ++i) {
        const double nearer = distances[in.indices[i]];
        if (nearer < distance && nearer + weights.of_edge(in_edges[i]) == distance) {
          parents[v] = in.indices[i];
        }
      }
      rooted[v] = parents[v] != none;
      missed += !rooted[v];
    }
    left += missed;
  });
  if (left == 0) return;
  std::vector<I> queue;
  for (int64_t v = 0; v < in.size; ++v) {
    if (rooted[v]) queue.push_back(static_cast<I>(v));
  }
  for (size_t head = 0; head < queue.size() && left > 0; ++head) {
    if (head % (1 << 16) == 0) run.check();
    const I v = queue[head];
    for (int64_t i = out.begin(v); i < out.end(v); ++i) {
      const I u = out.indices[i];
      if (rooted[u] || distances[v] + weights[i] != distances[u]) continue;
      parents[u] = v;
      rooted[u] = 1;
      --left;
      queue.push_back(u);
    }
  }
}

}  // namespace vineyard::graph
