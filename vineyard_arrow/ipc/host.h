// The daemon's side of the shared structures: it writes the index, answers for credit,
// sends extents home, and keeps metadata in a segment of its own.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "allocator.h"

namespace vineyard {

class MappedFile {
 public:
  MappedFile(int fd, uint64_t nbytes) : nbytes_(nbytes) {
    at_ = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at_ == MAP_FAILED) throw system_error("mmap of a shared file");
  }
  ~MappedFile() {
    if (at_) munmap(at_, nbytes_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  uint8_t* data() const { return static_cast<uint8_t*>(at_); }
  void keep() { at_ = nullptr; }  // mapped until the process ends

 private:
  void* at_;
  uint64_t nbytes_;
};

class HostTable {  // one client's table
 public:
  HostTable(int fd, uint64_t num_slots)
      : file_(fd, ClientTable::nbytes(num_slots)), t_(reinterpret_cast<ClientTable*>(file_.data())) {}

  int64_t wanted() const { return t_->wanted.load(); }
  int64_t unsealed() const { return t_->unsealed.load(std::memory_order_relaxed); }
  int64_t warm() const { return t_->warm.load(std::memory_order_relaxed); }
  int64_t credit() const { return t_->credit.load(); }

  void grant(int64_t nbytes) { t_->credit.fetch_add(nbytes); }
  // Takes back up to `nbytes` of unused credit; returns how much.
  int64_t revoke(int64_t nbytes) {
    int64_t have = t_->credit.load();
    for (;;) {
      int64_t n = std::min(have, nbytes);
      if (n <= 0) return 0;
      if (t_->credit.compare_exchange_weak(have, have - n)) return n;
    }
  }
  void answer(bool granted) {
    t_->wanted.store(granted ? 0 : -1);
    t_->answers.fetch_add(1);
    futex_wake(&t_->answers);
  }
  void ask_trim() {
    t_->trims.fetch_add(1);
    wake();
  }
  // Sends an extent home; false when the ring is full.
  bool give_back(uint64_t offset, uint64_t nbytes) {
    uint64_t head = t_->ring_head.load(std::memory_order_relaxed);
    if (head - t_->ring_tail.load(std::memory_order_acquire) >= kRingEntries) return false;
    t_->ring()[head % kRingEntries] = {offset, nbytes};
    t_->ring_head.store(head + 1);
    if (t_->asleep.exchange(0)) wake();
    return true;
  }

  // ---- the outbox

  // The daemon has heard the kick, and looks at the outbox next: later mail kicks again.
  void heard() { t_->out_kicked.store(0); }
  bool has_mail() const { return t_->out_head.load() != t_->out_tail.load(std::memory_order_relaxed); }
  // The messages left since the last time. The writer may be hostile: what it says of
  // lengths is read once and checked. Throws on nonsense.
  std::vector<std::string> take_mail() {
    std::vector<std::string> out;
    uint64_t tail = t_->out_tail.load(), head = t_->out_head.load();
    if (head - tail > kOutboxNbytes) throw std::invalid_argument("the outbox is overfull");
    while (tail != head) {
      uint64_t n = 0;
      if (head - tail >= sizeof(n)) read_mail(tail, &n, sizeof(n));
      if (!n || n > kMaxOutboxEntry || sizeof(n) + round_up(n, 8) > head - tail)
        throw std::invalid_argument("an entry of the outbox is damaged");
      std::string message(n, '\0');
      read_mail(tail + sizeof(n), message.data(), n);
      out.push_back(std::move(message));
      tail += sizeof(n) + round_up(n, 8);
    }
    t_->out_tail.store(tail);
    return out;
  }
  void allow(int64_t objects) { t_->allowance.fetch_add(objects); }
  // Takes the allowance back; returns how much was left.
  int64_t disallow() { return t_->allowance.exchange(0); }

  // ---- streams

  uint64_t word(uint32_t i) const { return t_->words[i % kWords].load(); }
  void set_word(uint32_t i, uint64_t value) { t_->words[i % kWords].store(value); }

  bool pins(uint32_t slot) const { return t_->pins()[slot].load() != 0; }
  int64_t total_pins(uint32_t num_slots) const {
    int64_t n = 0;
    for (uint32_t i = 0; i < num_slots; i++) n += t_->pins()[i].load(std::memory_order_relaxed);
    return n;
  }
  void copy_pins(const HostTable& from, uint32_t num_slots) {
    for (uint32_t i = 0; i < num_slots; i++) {
      uint32_t n = from.t_->pins()[i].load();
      if (n) t_->pins()[i].store(n);
    }
  }

 private:
  void read_mail(uint64_t at, void* to, uint64_t n) const {
    uint64_t from = at % kOutboxNbytes, first = std::min(n, kOutboxNbytes - from);
    memcpy(to, t_->outbox() + from, first);
    memcpy(static_cast<char*>(to) + first, t_->outbox(), n - first);
  }
  void wake() {
    t_->wake.fetch_add(1);
    futex_wake(&t_->wake);
  }
  MappedFile file_;
  ClientTable* t_;
};

class HostIndex {
 public:
  HostIndex(int fd, uint64_t num_buckets, uint64_t num_slots, uint64_t space, uint64_t catalog_offset,
            uint64_t catalog_nbytes, uint64_t instance)
      : file_(fd, index_nbytes(num_buckets, num_slots)) {
    auto h = reinterpret_cast<IndexHeader*>(file_.data());
    h->num_buckets = num_buckets;
    h->num_slots = num_slots;
    h->space_nbytes = space;
    h->catalog_offset = catalog_offset;
    h->catalog_nbytes = catalog_nbytes;
    h->instance = instance;
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&h->liveness, &attr);
    pthread_mutex_lock(&h->liveness);
    h->magic = kIndexMagic;
    view_.open(file_.data());
  }

  // Tells the readers, and takes the mutex off this thread's robust list, whose links
  // would else lead into memory that is no longer mapped.
  ~HostIndex() {
    // Only the thread that holds it can; on any other the mapping must stay.
    if (pthread_mutex_unlock(&view_.header->liveness) != 0) file_.keep();
  }
  HostIndex(const HostIndex&) = delete;
  HostIndex& operator=(const HostIndex&) = delete;

  // Whether anybody waits for an object: writers must then kick the daemon.
  void set_waiters(uint32_t n) { view_.header->waiters.store(n); }

  // Whether the writer of a stream waits for its readers: they must then kick the daemon.
  void set_room_waiters(uint32_t n) { view_.header->room_waiters.store(n); }

  // Slots ever used: no pin table has a pin beyond.
  uint32_t high_water() const { return used_; }

  // The slot taken, or -1 when all are.
  int64_t insert(uint64_t key, uint32_t kind, uint64_t offset, uint64_t nbytes, uint64_t target) {
    uint32_t slot;
    if (!free_.empty()) {
      slot = free_.back();
      free_.pop_back();
    } else if (used_ < view_.header->num_slots) {
      slot = used_++;
    } else {
      return -1;
    }
    Slot& s = view_.slots[slot];
    s.seq.store(s.seq.load() | 1);
    s.kind.store(kind);
    s.key.store(key);
    s.offset.store(offset);
    s.nbytes.store(nbytes);
    s.target.store(target);
    s.seq.store(s.seq.load() + 1);
    uint64_t hash = hash_of(key, kind), mask = view_.header->num_buckets - 1;
    uint64_t i = home_of(key, kind) & mask;
    while (view_.buckets[i].load(std::memory_order_relaxed)) i = (i + 1) & mask;
    view_.buckets[i].store(bucket_entry(hash, slot));
    return slot;
  }

  // From here on no new pin holds; pins made before still do (see Attachment::pin).
  void kill(uint32_t slot) {
    Slot& s = view_.slots[slot];
    s.seq.store(s.seq.load() | 1);
    unlink(slot);
  }
  // The slot may be used again: it is dead and nobody pins it.
  void release(uint32_t slot) {
    view_.slots[slot].kind.store(kFree);
    free_.push_back(slot);
  }

 private:
  // Removes the bucket, moving later ones of its run forward. A reader under way may miss
  // an entry that moves past it; it then asks over the socket, so a miss is never final.
  void unlink(uint32_t slot) {
    uint64_t mask = view_.header->num_buckets - 1;
    uint64_t i = home_of_slot(slot) & mask;
    while (static_cast<uint32_t>(view_.buckets[i].load()) != slot + 1) i = (i + 1) & mask;
    for (uint64_t j = (i + 1) & mask;; j = (j + 1) & mask) {
      uint64_t entry = view_.buckets[j].load();
      if (!entry) break;
      uint64_t home = home_of_slot(static_cast<uint32_t>(entry) - 1) & mask;
      if (((j - home) & mask) < ((j - i) & mask)) continue;  // it may not move before its home
      view_.buckets[i].store(entry);
      i = j;
    }
    view_.buckets[i].store(0);
  }
  uint64_t home_of_slot(uint32_t slot) const {
    const Slot& s = view_.slots[slot];
    return home_of(s.key.load(), s.kind.load());
  }

  MappedFile file_;
  IndexView view_;
  std::vector<uint32_t> free_;
  uint32_t used_ = 0;
};

// The sealed extents of all segments, by their offset in the store, and how many users
// (objects, forked clients) each has. Bad input is a std::invalid_argument, and changes
// nothing.
class ExtentBook {
 public:
  struct Extent {
    uint64_t nbytes;
    int64_t users;
    uint32_t segment;
  };
  using Map = std::map<uint64_t, Extent>;

  // Enters extents that lie in [begin, end) of `segment`, with no users yet.
  void seal(uint32_t segment, uint64_t begin, uint64_t end, const std::vector<Range>& claims) {
    for (size_t i = 0; i < claims.size(); i++) {
      const char* wrong = refusal(begin, end, claims[i]);
      if (!wrong) {
        map_.emplace(claims[i].offset, Extent{claims[i].nbytes, 0, segment});
        continue;
      }
      while (i-- > 0) map_.erase(claims[i].offset);
      throw std::invalid_argument(wrong);
    }
  }
  // Takes those out again that have no users.
  void unseal(const std::vector<Range>& claims) {
    for (auto& c : claims) {
      auto it = map_.find(c.offset);
      if (it != map_.end() && !it->second.users) map_.erase(it);
    }
  }

  // The extents that hold all of `ranges` (ascending, disjoint), by offset, ascending.
  std::vector<uint64_t> cover(const std::vector<Range>& ranges) const {
    std::vector<uint64_t> out;
    for (auto& r : ranges) {
      uint64_t at = r.offset, end = r.offset + r.nbytes;
      auto it = map_.upper_bound(at);
      if (it != map_.begin()) --it;
      for (; at < end; ++it) {
        if (it == map_.end() || it->first > at || it->first + it->second.nbytes <= at)
          throw std::invalid_argument("a buffer lies in memory that is not sealed");
        if (out.empty() || out.back() != it->first) out.push_back(it->first);
        at = it->first + it->second.nbytes;
      }
    }
    return out;
  }

  const Extent& at(uint64_t offset) const { return map_.at(offset); }
  void hold(const std::vector<uint64_t>& keys) {
    for (uint64_t k : keys) map_.at(k).users++;
  }
  // One user less of each; those left without are taken out and returned.
  std::vector<Range> drop(const std::vector<uint64_t>& keys) {
    std::vector<Range> out;
    for (uint64_t k : keys) {
      auto it = map_.find(k);
      if (it == map_.end() || --it->second.users > 0) continue;
      out.push_back({it->first, it->second.nbytes});
      map_.erase(it);
    }
    return out;
  }

  bool empty(uint64_t begin, uint64_t end) const {
    auto it = map_.lower_bound(begin);
    return it == map_.end() || it->first >= end;
  }
  // Extents in [begin, end).
  std::vector<Range> within(uint64_t begin, uint64_t end) const {
    std::vector<Range> out;
    for (auto it = map_.lower_bound(begin); it != map_.end() && it->first < end; ++it)
      out.push_back({it->first, it->second.nbytes});
    return out;
  }

 private:
  const char* refusal(uint64_t begin, uint64_t end, const Range& c) const {
    if (!c.nbytes || c.offset % kPage || c.nbytes % kPage) return "a claim is no range of pages";
    if (c.offset < begin || c.offset > end || c.nbytes > end - c.offset)
      return "a claim lies outside of the caller's segment";
    auto next = map_.lower_bound(c.offset);
    if (next != map_.end() && next->first < c.offset + c.nbytes) return "a claim overlaps a sealed extent";
    if (next != map_.begin()) {
      auto prev = std::prev(next);
      if (prev->first + prev->second.nbytes > c.offset) return "a claim overlaps a sealed extent";
    }
    return nullptr;
  }

  Map map_;
};

// The daemon's segment of metadata, in pieces of 64 bytes.
class MetadataArena final : public Backing {
 public:
  MetadataArena(int fd, uint64_t nbytes) : file_(fd, nbytes), free_(this, kPage) {
    free_.add(0, nbytes);
  }

  // Offset in the segment of `nbytes` fresh bytes, or -1.
  int64_t allocate(uint64_t nbytes) {
    auto offset = take(round_up(nbytes, 64));
    return offset ? static_cast<int64_t>(*offset) : -1;
  }
  void free(uint64_t offset, uint64_t nbytes) { pieces_.insert(offset, round_up(nbytes, 64)); }
  uint8_t* at(uint64_t offset) const { return file_.data() + offset; }
  uint64_t committed() const { return committed_; }
  uint64_t spare() const { return free_.largest(); }
  uint64_t used() const { return committed_ - pieces_.total() - free_.warm_nbytes(); }

  void trim() {
    auto ranges = pieces_.ranges();
    for (auto [offset, nbytes] : ranges) {
      uint64_t begin = round_up(offset, kPage), end = round_down(offset + nbytes, kPage);
      if (begin >= end) continue;
      pieces_.remove(begin, end - begin);
      free_.free(begin, end - begin);
    }
    free_.trim();
  }

  bool commit(uint64_t nbytes) override {
    committed_ += nbytes;
    return true;
  }
  void uncommit(uint64_t nbytes) override { committed_ -= nbytes; }
  bool punch(uint64_t offset, uint64_t nbytes) override {
    return madvise(at(offset), nbytes, MADV_REMOVE) == 0;
  }

 private:
  std::optional<uint64_t> take(uint64_t nbytes) {
    auto fit = pieces_.best_fit(nbytes);
    if (!fit) {
      uint64_t more = round_up(nbytes, 16 * kPage);
      auto offset = free_.allocate(more);
      if (!offset) offset = free_.allocate(more = round_up(nbytes, kPage));  // in small pieces
      if (!offset) return std::nullopt;
      pieces_.insert(*offset, more);
      fit = pieces_.best_fit(nbytes);
    }
    pieces_.remove(fit->offset, nbytes);
    return fit->offset;
  }

  MappedFile file_;
  Allocator free_;    // whole pages
  RangeSet pieces_;   // free parts of the pages taken from it
  uint64_t committed_ = 0;
};

}  // namespace vineyard
