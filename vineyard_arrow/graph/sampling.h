// Random walks and samples of neighbourhoods. Every random number is a hash of the seed and of
// what it is drawn for, so results don't depend on threads.
#pragma once

#include "kernel.h"

namespace vineyard::graph {

// Sums of weights from each row's begin up to and with the edge.
template <class I>
void prefix_sums(Run& run, const Rows<I>& rows, const Weights& weights, double* sums) {
  run.blocks(cut_by_edges(rows.size, rows.indptr), [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t v = begin; v < end; ++v) {
      double sum = 0;
      for (int64_t i = rows.begin(v); i < rows.end(v); ++i) sums[i] = sum += weights[i];
    }
  });
}

// walks[k * (length + 1) + s] is where walk k is after s steps; past a vertex that leads nowhere
// it is the largest value of I. `sums` is null for uniform steps.
template <class I>
void random_walks(Run& run, const Rows<I>& rows, const double* sums, const int64_t* starts,
                  int64_t count, int64_t length, uint64_t seed, I* walks) {
  constexpr I none = std::numeric_limits<I>::max();
  auto step = [&](I v, uint64_t random) {
    const int64_t begin = rows.begin(v), end = rows.end(v);
    if (begin == end) return none;
    if (sums == nullptr) {
      return rows.indices[begin + below(random, static_cast<uint64_t>(end - begin))];
    }
    const double total = sums[end - 1];
    if (!(total > 0)) return none;
    const double *first = sums + begin, *last = sums + end;
    const double* hit = std::upper_bound(first, last, unit(random) * total);
    if (hit == last) hit = std::lower_bound(first, last, total);  // the product was rounded up
    return rows.indices[begin + (hit - first)];
  };
  // Walks of a block go in step, so that their cache misses overlap.
  run.blocks(cut_evenly(count, 256), [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) walks[k * (length + 1)] = static_cast<I>(starts[k]);
    for (int64_t s = 0; s < length; ++s) {
      for (int64_t k = begin; k < end; ++k) {
        I* const at = walks + k * (length + 1) + s;
        at[1] = at[0] == none ? none : step(at[0], mix(mix(seed, k), s));
      }
    }
  });
}

// Local ids of a sample: in the order in which vertices are met.
class LocalIds {
 public:
  explicit LocalIds(const std::vector<int64_t>& distinct) : slots_(64, -1) {
    for (int64_t v : distinct) id(v);
  }

  int64_t id(int64_t v) {
    if (2 * nodes.size() >= slots_.size()) grow();
    size_t slot = mix(static_cast<uint64_t>(v)) & (slots_.size() - 1);
    while (slots_[slot] >= 0) {
      if (nodes[slots_[slot]] == v) return slots_[slot];
      slot = (slot + 1) & (slots_.size() - 1);
    }
    slots_[slot] = static_cast<int64_t>(nodes.size());
    nodes.push_back(v);
    return slots_[slot];
  }

  std::vector<int64_t> nodes;

 private:
  void grow() {
    slots_.assign(slots_.size() * 4, -1);
    for (size_t i = 0; i < nodes.size(); ++i) {
      size_t slot = mix(static_cast<uint64_t>(nodes[i])) & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<int64_t>(i);
    }
  }

  std::vector<int64_t> slots_;
};

// k of the numbers 0 to d - 1, ascending. Few of many: Floyd's (Bentley 1987); else Knuth's
// algorithm S.
template <class Random>
void choose(int64_t k, int64_t d, Random random, int64_t* chosen) {
  if (k == d) {
    for (int64_t i = 0; i < k; ++i) chosen[i] = i;
  } else if (k <= d / k) {
    for (int64_t i = 0; i < k; ++i) {
      const int64_t j = d - k + i;
      auto pick = static_cast<int64_t>(below(random(i), static_cast<uint64_t>(j + 1)));
      int64_t* place = std::lower_bound(chosen, chosen + i, pick);
      if (place != chosen + i && *place == pick) {
        pick = j;  // larger than all that were chosen
        place = chosen + i;
      }
      std::copy_backward(place, chosen + i, chosen + i + 1);
      *place = pick;
    }
  } else {
    for (int64_t i = 0, taken = 0; taken < k; ++i) {
      const auto left = static_cast<uint64_t>(d - i);
      if (below(random(i), left) < static_cast<uint64_t>(k - taken)) chosen[taken++] = i;
    }
  }
}

struct Hop {
  int64_t targets, size;                // vertices that had a local id before, and after
  std::vector<int64_t> row, col, edge;  // local id of the neighbour, of the vertex; edge id
};

// For each vertex of `ids` (as it is at the call) up to `fanout` of its row's edges, or all if
// negative; neighbours that are new get the next ids.
template <class I>
Hop sample_hop(Run& run, const Rows<I>& rows, const Ids& edge_ids, int64_t fanout, bool again,
               uint64_t seed, LocalIds& ids) {
  const auto targets = static_cast<int64_t>(ids.nodes.size());
  std::vector<int64_t> offsets(targets + 1);
  for (int64_t t = 0; t < targets; ++t) {
    const int64_t degree = rows.degree(ids.nodes[t]);
    const bool all = fanout < 0 || (!again && degree < fanout);
    offsets[t + 1] = offsets[t] + (degree == 0 ? 0 : all ? degree : fanout);
  }
  Hop hop{targets};
  hop.row.resize(offsets[targets]);
  hop.col.resize(offsets[targets]);
  hop.edge.resize(offsets[targets]);
  run.blocks(cut_evenly(targets, 256), [&](int64_t, int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t v = ids.nodes[t], degree = rows.degree(v);
      const int64_t count = offsets[t + 1] - offsets[t];
      int64_t* const edges = hop.edge.data() + offsets[t];
      const uint64_t key = mix(seed, static_cast<uint64_t>(v));
      auto random = [&](int64_t i) { return mix(key, static_cast<uint64_t>(i)); };
      if (again && fanout >= 0) {
        for (int64_t i = 0; i < count; ++i) {
          edges[i] = static_cast<int64_t>(below(random(i), static_cast<uint64_t>(degree)));
        }
      } else if (count > 0) {
        choose(count, degree, random, edges);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t position = rows.begin(v) + edges[i];
        hop.row[offsets[t] + i] = static_cast<int64_t>(rows.indices[position]);
        hop.col[offsets[t] + i] = t;
        edges[i] = edge_ids[position];
      }
    }
  });
  for (int64_t& v : hop.row) v = ids.id(v);
  hop.size = static_cast<int64_t>(ids.nodes.size());
  run.check();
  return hop;
}

// Hops from `nodes`, which are distinct, outwards; `met` becomes all vertices by local id.
template <class I>
std::vector<Hop> sample_neighbors(Run& run, const Rows<I>& rows, const Ids& edge_ids,
                                  const std::vector<int64_t>& nodes,
                                  const std::vector<int64_t>& fanouts, bool again, uint64_t seed,
                                  std::vector<int64_t>& met) {
  LocalIds ids(nodes);
  std::vector<Hop> hops;
  for (size_t i = 0; i < fanouts.size(); ++i) {
    hops.push_back(sample_hop(run, rows, edge_ids, fanouts[i], again, mix(seed, i), ids));
  }
  met = std::move(ids.nodes);
  return hops;
}

}  // namespace vineyard::graph
