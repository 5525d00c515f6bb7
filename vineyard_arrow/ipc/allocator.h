// Extents of a segment, kept out of band: which ranges are free, and which of the free
// ones still have pages (*warm*) or not (*cold*). Knows no mappings: what it costs to
// commit a range and how to punch one are asked of its owner through `Backing`.
//
// Not thread-safe. All sizes are multiples of a page; cold ranges are carved in units
// (the huge page size where there are huge pages), so what is committed is exactly what
// is not cold.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "vineyard_arrow/layout.h"

namespace vineyard {

// Disjoint ranges, coalesced, found by offset or by size.
class RangeSet {
 public:
  void insert(uint64_t offset, uint64_t nbytes) {
    if (nbytes == 0) return;
    total_ += nbytes;
    auto next = by_offset_.lower_bound(offset);
    if (next != by_offset_.end() && next->first == offset + nbytes) {
      nbytes += next->second;
      next = drop(next);
    }
    if (next != by_offset_.begin()) {
      auto prev = std::prev(next);
      if (prev->first + prev->second == offset) {
        offset = prev->first;
        nbytes += prev->second;
        drop(prev);
      }
    }
    by_offset_.emplace(offset, nbytes);
    by_size_.emplace(nbytes, offset);
  }

  // Takes [offset, offset + nbytes) out; it must lie within one range.
  void remove(uint64_t offset, uint64_t nbytes) {
    auto it = std::prev(by_offset_.upper_bound(offset));
    auto [start, length] = *it;
    drop(it);
    total_ -= nbytes;
    if (start < offset) put(start, offset - start);
    if (offset + nbytes < start + length) put(offset + nbytes, start + length - offset - nbytes);
  }

  std::optional<Range> best_fit(uint64_t nbytes) const {
    auto it = by_size_.lower_bound({nbytes, 0});
    if (it == by_size_.end()) return std::nullopt;
    return Range{it->second, it->first};
  }
  // Where `nbytes` fit at a multiple of `unit`; not every range is looked at.
  std::optional<uint64_t> aligned_fit(uint64_t nbytes, uint64_t unit) const {
    auto it = by_size_.lower_bound({nbytes, 0});
    for (int tries = 64; tries && it != by_size_.end(); --tries, ++it) {
      uint64_t start = round_up(it->second, unit);
      if (start + nbytes <= it->second + it->first) return start;
    }
    return std::nullopt;
  }
  std::optional<Range> starting_at(uint64_t offset) const {
    auto it = by_offset_.find(offset);
    if (it == by_offset_.end()) return std::nullopt;
    return Range{it->first, it->second};
  }
  std::optional<Range> ending_at(uint64_t offset) const {
    auto it = by_offset_.lower_bound(offset);
    if (it == by_offset_.begin()) return std::nullopt;
    --it;
    if (it->first + it->second != offset) return std::nullopt;
    return Range{it->first, it->second};
  }

  const std::map<uint64_t, uint64_t>& ranges() const { return by_offset_; }
  uint64_t total() const { return total_; }
  uint64_t largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }

 private:
  using Iterator = std::map<uint64_t, uint64_t>::iterator;

  Iterator drop(Iterator it) {
    by_size_.erase({it->second, it->first});
    return by_offset_.erase(it);
  }
  void put(uint64_t offset, uint64_t nbytes) {
    by_offset_.emplace(offset, nbytes);
    by_size_.emplace(nbytes, offset);
  }

  std::map<uint64_t, uint64_t> by_offset_;
  std::set<std::pair<uint64_t, uint64_t>> by_size_;
  uint64_t total_ = 0;
};

// What an allocator needs of the memory it hands out.
class Backing {
 public:
  virtual ~Backing() = default;
  virtual bool commit(uint64_t nbytes) = 0;                   // may it touch so much more?
  virtual void uncommit(uint64_t nbytes) = 0;                 // it no longer does
  virtual bool punch(uint64_t offset, uint64_t nbytes) = 0;   // give the pages back
};

class Allocator {
 public:
  Allocator(Backing* backing, uint64_t unit) : backing_(backing), unit_(unit) {}

  void add(uint64_t offset, uint64_t nbytes) {
    // What does not fill a unit at either end is left alone: address space only.
    uint64_t start = round_up(offset, unit_), end = round_down(offset + nbytes, unit_);
    if (start < end) cold_.insert(start, end - start);
  }

  // The offset of `nbytes` (a page multiple), best fit, warm pages first; nothing when
  // there is no range or no credit for it.
  std::optional<uint64_t> allocate(uint64_t nbytes) {
    if (auto fit = warm_.best_fit(nbytes)) {
      warm_.remove(fit->offset, nbytes);
      return fit->offset;
    }
    auto fit = cold_.best_fit(round_up(nbytes, unit_));
    if (!fit) return std::nullopt;
    // A warm tail in front of the cold range belongs to the same allocation.
    auto tail = warm_.ending_at(fit->offset);
    uint64_t have = tail ? tail->nbytes : 0;
    uint64_t fresh = round_up(nbytes - have, unit_);
    if (!backing_->commit(fresh)) return std::nullopt;
    // Waiting for credit may have trimmed: the tail can have gone cold meanwhile.
    if (tail && !same(warm_.ending_at(fit->offset), *tail)) {
      backing_->uncommit(fresh);
      return allocate(nbytes);
    }
    cold_.remove(fit->offset, fresh);
    warm_.insert(fit->offset, fresh);
    uint64_t start = fit->offset - have;
    warm_.remove(start, nbytes);
    return start;
  }

  // As `allocate`, for whole units and at a multiple of one.
  std::optional<uint64_t> allocate_units(uint64_t nbytes) {
    if (auto start = warm_.aligned_fit(nbytes, unit_)) {
      warm_.remove(*start, nbytes);
      return start;
    }
    auto fit = cold_.best_fit(nbytes);
    if (!fit || !backing_->commit(nbytes)) return std::nullopt;
    cold_.remove(fit->offset, nbytes);
    return fit->offset;
  }

  // Makes [offset, old) reach `nbytes` in place, if what follows is free.
  bool grow(uint64_t offset, uint64_t old, uint64_t nbytes) {
    uint64_t more = nbytes - old, end = offset + old;
    auto warm = warm_.starting_at(end);
    uint64_t have = warm ? warm->nbytes : 0;
    if (have < more) {
      uint64_t fresh = round_up(more - have, unit_);
      auto cold = cold_.starting_at(end + have);
      if (!cold || cold->nbytes < fresh || !backing_->commit(fresh)) return false;
      auto now = warm_.starting_at(end);
      if ((now ? now->nbytes : 0) != have) {
        backing_->uncommit(fresh);
        return false;
      }
      cold_.remove(end + have, fresh);
      warm_.insert(end + have, fresh);
    }
    warm_.remove(end, more);
    return true;
  }

  void free(uint64_t offset, uint64_t nbytes) { warm_.insert(offset, nbytes); }

  // Punches every whole unit that is warm.
  void trim() {
    std::map<uint64_t, uint64_t> ranges = warm_.ranges();
    for (auto [offset, nbytes] : ranges) {
      uint64_t start = round_up(offset, unit_), end = round_down(offset + nbytes, unit_);
      if (start >= end || !backing_->punch(start, end - start)) continue;
      warm_.remove(start, end - start);
      cold_.insert(start, end - start);
      backing_->uncommit(end - start);
    }
  }

  uint64_t warm_nbytes() const { return warm_.total(); }
  // Bytes that `allocate` finds in one piece, credit permitting.
  uint64_t largest() const { return std::max(warm_.largest(), cold_.largest()); }

 private:
  static bool same(const std::optional<Range>& a, const Range& b) {
    return a && a->offset == b.offset && a->nbytes == b.nbytes;
  }

  Backing* backing_;
  uint64_t unit_;
  RangeSet warm_, cold_;
};

}  // namespace vineyard
