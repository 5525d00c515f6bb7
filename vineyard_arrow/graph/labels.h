// Communities by label propagation (Raghavan, Albert and Kumara 2007), the same for any number of
// threads: vertices are updated in batches, each from the labels before it.
#pragma once

#include "kernel.h"

namespace vineyard::graph {

// labels[v] is v's label at first. Both directions count, each edge once a direction; self-loops
// don't. A vertex keeps its label while none is more frequent; ties are broken by a hash. The
// batches are drawn anew each iteration, so that no two neighbours swap labels for ever.
template <class I>
void propagate_labels(Run& run, const Rows<I>& out, const Rows<I>& in, bool symmetric,
                      uint64_t seed, int64_t max_iter, std::vector<I>& labels) {
  constexpr uint64_t kBatches = 16;
  const int64_t n = out.size;
  std::vector<uint8_t> awake(n, 1);  // some neighbour's label changed since the last look
  std::vector<I> next(n);
  std::vector<std::vector<I>> batches(kBatches);
  struct Ballot {
    std::vector<uint32_t> votes;
    std::vector<I> named;
  };
  std::vector<Ballot> ballots(run.threads);
  auto each_neighbor = [&](I v, auto f) {
    for (const I u : out[v]) f(u);
    if (!symmetric) {
      for (const I u : in[v]) f(u);
    }
  };
  auto elect = [&](I v, uint64_t key, Ballot& ballot) {
    auto& [votes, named] = ballot;
    uint32_t most = 0;
    each_neighbor(v, [&](I u) {
      if (u == v) return;
      const I label = labels[u];
      if (votes[label]++ == 0) named.push_back(label);
      most = std::max(most, votes[label]);
    });
    I best = labels[v];
    if (votes[best] < most) {
      uint64_t highest = 0;
      bool any = false;
      for (const I label : named) {
        if (votes[label] < most) continue;
        const uint64_t hash = mix(key, label);
        if (!any || hash > highest || (hash == highest && label < best)) {
          highest = hash;
          best = label;
          any = true;
        }
      }
    }
    for (const I label : named) votes[label] = 0;
    named.clear();
    return best;
  };
  for (int64_t iteration = 0; iteration < max_iter; ++iteration) {
    const uint64_t key = mix(seed, static_cast<uint64_t>(iteration));
    for (auto& batch : batches) batch.clear();
    bool any = false;
    for (int64_t v = 0; v < n; ++v) {
      if (!awake[v]) continue;
      batches[mix(key, static_cast<uint64_t>(v)) % kBatches].push_back(static_cast<I>(v));
      any = true;
    }
    if (!any) return;  // around no vertex is another label more frequent than its own
    for (const auto& batch : batches) {
      const Cuts slices = cut_evenly(static_cast<int64_t>(batch.size()), 512);
      run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int thread) {
        Ballot& ballot = ballots[thread];
        if (ballot.votes.empty()) ballot.votes.resize(n);
        for (int64_t i = begin; i < end; ++i) {
          awake[batch[i]] = 0;
          next[batch[i]] = elect(batch[i], key, ballot);
        }
      });
      run.blocks(slices, [&](int64_t, int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const I v = batch[i];
          if (next[v] == labels[v]) continue;
          labels[v] = next[v];
          each_neighbor(v, [&](I u) { store(awake[u], uint8_t{1}); });
        }
      });
      run.check();
    }
  }
}

}  // namespace vineyard::graph
