// From original ids to vertex ids: open addressing with linear probes, as it lies in the store.
//
//   integers   int64 keys[cap], Id ids[cap]; a slot is empty where its id is all ones
//   other keys uint64 slots[cap]: tag above, id in the low `id_bits`; all ones if empty. The key
//              itself is in row `id` of the vertex table's key columns.
//
// A key's first slot is hash * cap / 2^64, so any capacity will do. Hashes are part of the format.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "parallel.h"

namespace vineyard::graph {

constexpr int kBatch = 32;                  // look-ups whose memory is fetched at once
constexpr int64_t kLookupGrain = 1 << 14;   // fewer are not worth a thread

inline uint64_t mix(uint64_t a, uint64_t b) {
  auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

inline uint64_t hash_int(int64_t key) {
  return mix(static_cast<uint64_t>(key) ^ 0x9e3779b97f4a7c15u, 0xd6e8feb86659fd93u);
}

inline uint64_t hash_bytes(const uint8_t* p, int64_t n) {
  uint64_t h = mix(static_cast<uint64_t>(n) ^ 0x9e3779b97f4a7c15u, 0xa0761d6478bd642fu), word;
  for (; n >= 8; n -= 8, p += 8) {
    memcpy(&word, p, 8);
    h = mix(h ^ word, 0xe7037ed1a0b428dbu);
  }
  word = 0;
  memcpy(&word, p, n);
  return mix(h ^ word, 0x8ebc6af09c88c6e3u);
}

inline int64_t slot_of(uint64_t hash, int64_t cap) {
  return static_cast<int64_t>(static_cast<unsigned __int128>(hash) * cap >> 64);
}

// ---- integers

template <typename Id>
struct IntIndex {
  int64_t* keys;
  Id* ids;
  int64_t cap;
  static constexpr Id none = std::numeric_limits<Id>::max();

  void prefetch(int64_t slot) const {
    __builtin_prefetch(keys + slot);
    __builtin_prefetch(ids + slot);
  }
  Id find(int64_t key, int64_t slot) const {
    for (int64_t left = cap; left > 0; --left) {
      if (ids[slot] == none || keys[slot] == key) return ids[slot];
      if (++slot == cap) slot = 0;
    }
    return none;
  }
};

// Enters keys[i] with id i. Returns how many were there already; the first of them, at most
// `most`, go to `again`.
template <typename Id>
int64_t fill_ints(IntIndex<Id> index, const int64_t* keys, int64_t n, int64_t* again, int64_t most) {
  std::fill_n(index.ids, index.cap, index.none);
  std::fill_n(index.keys, index.cap, 0);
  int64_t duplicates = 0, slots[kBatch];
  for (int64_t at = 0; at < n; at += kBatch) {
    int64_t here = std::min<int64_t>(kBatch, n - at);
    for (int64_t i = 0; i < here; ++i) {
      slots[i] = slot_of(hash_int(keys[at + i]), index.cap);
      index.prefetch(slots[i]);
    }
    for (int64_t i = 0; i < here; ++i) {
      int64_t slot = slots[i], key = keys[at + i];
      while (index.ids[slot] != index.none && index.keys[slot] != key)
        if (++slot == index.cap) slot = 0;
      if (index.ids[slot] != index.none) {
        if (duplicates < most) again[duplicates] = at + i;
        ++duplicates;
      } else {
        index.keys[slot] = key;
        index.ids[slot] = static_cast<Id>(at + i);
      }
    }
  }
  return duplicates;
}

// The ids of many keys, `none` for those that are unknown. Returns how many are.
template <typename Id>
int64_t find_ints(IntIndex<Id> index, const int64_t* keys, int64_t n, int threads, Id* out) {
  std::atomic<int64_t> unknown{0};
  parallel_ranges(n, threads, kLookupGrain, [&](int64_t begin, int64_t end, int) {
    int64_t slots[kBatch], missing = 0;
    for (int64_t at = begin; at < end; at += kBatch) {
      int64_t here = std::min<int64_t>(kBatch, end - at);
      for (int64_t i = 0; i < here; ++i) {
        slots[i] = slot_of(hash_int(keys[at + i]), index.cap);
        index.prefetch(slots[i]);
      }
      for (int64_t i = 0; i < here; ++i) {
        Id id = index.find(keys[at + i], slots[i]);
        out[at + i] = id;
        missing += id == index.none;
      }
    }
    unknown += missing;
  });
  return unknown;
}

// ---- keys of any columns

// A column of keys as it lies in Arrow's buffers: 64-bit integers, or text by offsets or views.
struct KeyColumn {
  enum Kind : int { kInt, kText32, kText64, kView };
  int kind;
  const uint8_t* values;   // integers, offsets or views, at the column's first row
  const uint8_t* text;     // of offsets
  const uint8_t** texts;   // of views

  struct Bytes {
    const uint8_t* data;
    int64_t size;
  };

  Bytes bytes(int64_t row) const {
    switch (kind) {
      case kInt:
        return {values + 8 * row, 8};
      case kText32: {
        auto at = reinterpret_cast<const int32_t*>(values) + row;
        return {text + at[0], at[1] - at[0]};
      }
      case kText64: {
        auto at = reinterpret_cast<const int64_t*>(values) + row;
        return {text + at[0], at[1] - at[0]};
      }
      default: {
        const uint8_t* view = values + 16 * row;
        int32_t head[4];
        memcpy(head, view, 16);
        if (head[0] <= 12) return {view + 4, head[0]};
        return {texts[head[2]] + head[3], head[0]};
      }
    }
  }
  void prefetch(int64_t row) const {
    __builtin_prefetch(values + (kind == kText32 ? 4 : kind == kView ? 16 : 8) * row);
  }
};

using KeyColumns = std::vector<KeyColumn>;

inline uint64_t hash_row(const KeyColumns& columns, int64_t row) {
  uint64_t h = 0;
  for (auto& column : columns) {
    auto [data, size] = column.bytes(row);
    uint64_t one = hash_bytes(data, size);
    h = h ? mix(h ^ one, 0x589965cc75374cc3u) : one;
  }
  return h;
}

inline void hash_rows(const KeyColumns& columns, int64_t n, int threads, uint64_t* out) {
  parallel_ranges(n, threads, kLookupGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) out[row] = hash_row(columns, row);
  });
}

inline bool same_row(const KeyColumns& a, int64_t row_a, const KeyColumns& b, int64_t row_b) {
  for (size_t i = 0; i < a.size(); ++i) {
    auto x = a[i].bytes(row_a), y = b[i].bytes(row_b);
    if (x.size != y.size || memcmp(x.data, y.data, x.size) != 0) return false;
  }
  return true;
}

struct RowIndex {
  uint64_t* slots;
  int64_t cap;
  int id_bits;
  static constexpr uint64_t none = ~uint64_t{0};

  uint64_t id_mask() const { return (uint64_t{1} << id_bits) - 1; }
  uint64_t entry(uint64_t hash, uint64_t id) const { return hash << id_bits | id; }
};

// Enters row i of the columns with id i; see fill_ints.
inline int64_t fill_rows(RowIndex index, const KeyColumns& columns, int64_t n, int64_t* again,
                         int64_t most) {
  std::fill_n(index.slots, index.cap, index.none);
  int64_t duplicates = 0, slots[kBatch];
  uint64_t hashes[kBatch];
  for (int64_t at = 0; at < n; at += kBatch) {
    int64_t here = std::min<int64_t>(kBatch, n - at);
    for (int64_t i = 0; i < here; ++i) {
      hashes[i] = hash_row(columns, at + i);
      slots[i] = slot_of(hashes[i], index.cap);
      __builtin_prefetch(index.slots + slots[i]);
    }
    for (int64_t i = 0; i < here; ++i) {
      int64_t slot = slots[i];
      uint64_t entry = index.entry(hashes[i], at + i);
      for (;; slot = slot + 1 == index.cap ? 0 : slot + 1) {
        uint64_t there = index.slots[slot];
        if (there == index.none) {
          index.slots[slot] = entry;
          break;
        }
        if ((there ^ entry) >> index.id_bits == 0 &&
            same_row(columns, there & index.id_mask(), columns, at + i)) {
          if (duplicates < most) again[duplicates] = at + i;
          ++duplicates;
          break;
        }
      }
    }
  }
  return duplicates;
}

// The ids of many rows of other columns of the same kinds; see find_ints. `count`: vertices, past
// which no id is believed.
template <typename Id>
int64_t find_rows(RowIndex index, const KeyColumns& columns, int64_t count,
                  const KeyColumns& wanted, int64_t n, int threads, Id* out) {
  constexpr Id none = std::numeric_limits<Id>::max();
  std::atomic<int64_t> unknown{0};
  parallel_ranges(n, threads, kLookupGrain, [&](int64_t begin, int64_t end, int) {
    int64_t slots[kBatch], missing = 0;
    uint64_t hashes[kBatch], first[kBatch];
    for (int64_t at = begin; at < end; at += kBatch) {
      int64_t here = std::min<int64_t>(kBatch, end - at);
      for (int64_t i = 0; i < here; ++i) {
        hashes[i] = hash_row(wanted, at + i);
        slots[i] = slot_of(hashes[i], index.cap);
        __builtin_prefetch(index.slots + slots[i]);
      }
      for (int64_t i = 0; i < here; ++i) {  // most likely it is the first entry with its tag
        first[i] = none;
        uint64_t entry = index.entry(hashes[i], 0);
        int64_t left = index.cap;
        while (index.slots[slots[i]] != index.none && left-- > 0) {
          uint64_t there = index.slots[slots[i]];
          if ((there ^ entry) >> index.id_bits == 0) {
            first[i] = there & index.id_mask();
            if (first[i] < static_cast<uint64_t>(count)) columns[0].prefetch(first[i]);
            break;
          }
          if (++slots[i] == index.cap) slots[i] = 0;
        }
      }
      for (int64_t i = 0; i < here; ++i) {
        if (columns[0].kind != KeyColumn::kInt && first[i] < static_cast<uint64_t>(count))
          __builtin_prefetch(columns[0].bytes(first[i]).data);
      }
      for (int64_t i = 0; i < here; ++i) {
        Id id = none;
        uint64_t entry = index.entry(hashes[i], 0);
        int64_t slot = slots[i];
        for (int64_t left = index.cap; left > 0 && index.slots[slot] != index.none; --left) {
          uint64_t there = index.slots[slot], row = there & index.id_mask();
          if ((there ^ entry) >> index.id_bits == 0 && row < static_cast<uint64_t>(count) &&
              same_row(columns, row, wanted, at + i)) {
            id = static_cast<Id>(row);
            break;
          }
          if (++slot == index.cap) slot = 0;
        }
        out[at + i] = id;
        missing += id == none;
      }
    }
    unknown += missing;
  });
  return unknown;
}

}  // namespace vineyard::graph
