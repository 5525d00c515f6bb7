// A writer's own segment: where its pool allocates and where its puts copy to.
//
// The segment has two halves. The *pool half* is mapped writable at its place in the
// address space: Arrow builds there, and on seal its pages are protected. The *put half*
// is mapped read-only there and is written through a second, private mapping (the alias)
// that no caller ever sees, so sealing what a put copied costs no protection at all.
//
// Extents that are sealed belong to the daemon; they come back through the ring of the
// client table once no object and no pin holds them. Memory of the pool half is reused
// only when both are true: the daemon gave it back, and Arrow freed the block.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "allocator.h"

namespace vineyard {

class Lease final : public Backing {
 public:
  struct Options {
    uint8_t* base;        // the process's address space
    uint64_t offset;      // of the segment in it
    uint64_t nbytes;      // of the segment; half of it each
    int fd;               // writable; not kept
    bool huge;
    double idle_s;        // warm pages are kept that long without use
    double deadline_s;    // for answers of the daemon
    int event_fd;         // kicks the daemon
    ClientTable* table;
    const IndexView* index;
  };

  explicit Lease(const Options& o)
      : o_(o), half_(o.nbytes / 2), pool_(this, o.huge ? kHugePage : kPage),
        put_(this, o.huge ? kHugePage : kPage) {
    uint8_t* at = o.base + o.offset;
    void* pool = mmap(at, half_, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, o.fd, 0);
    if (pool == MAP_FAILED) throw system_error("mmap of the pool half");
    // Over-reserve, so that the alias can share the alignment huge pages need.
    void* wide = mmap(nullptr, half_ + kHugePage, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (wide == MAP_FAILED) throw system_error("mmap of the alias");
    uint8_t* aligned = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uint64_t>(wide), kHugePage));
    void* alias = mmap(aligned, half_, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED | MAP_NORESERVE, o.fd, half_);
    if (alias == MAP_FAILED) {
      munmap(wide, half_ + kHugePage);
      throw system_error("mmap of the alias");
    }
    wide_ = wide;
    alias_ = aligned;
    madvise(at, half_, MADV_DONTFORK);
    madvise(alias_, half_, MADV_DONTFORK);
    if (o.huge) {
      madvise(at, half_, MADV_HUGEPAGE);
      madvise(alias_, half_, MADV_HUGEPAGE);
    }
    trimmer_ = std::thread([this] { trim_when_idle(); });
  }

  ~Lease() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_trimmer();
    trimmer_.join();
    munmap(wide_, half_ + kHugePage);
  }

  // A range the daemon lets this writer use; at a lease it tells all of them.
  void add_free(uint64_t offset, uint64_t nbytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (in_pool(offset) && !protect(offset, nbytes, PROT_READ | PROT_WRITE)) return;
    (in_pool(offset) ? pool_ : put_).add(offset, nbytes);
  }

  bool owns_block(const uint8_t* address) const {
    return address >= at(o_.offset) && address < at(o_.offset + half_);
  }

  // ---- the pool half: blocks that Arrow owns until it frees them

  // `whole`: large ones have whole huge pages to themselves, if the segment is of such.
  uint8_t* allocate(uint64_t nbytes, bool whole) {
    uint64_t unit = unit_for(nbytes, whole);
    nbytes = round_up(nbytes, unit);
    std::lock_guard<std::mutex> lock(mutex_);
    auto offset = take(pool_, nbytes, unit);
    if (!offset) return nullptr;
    blocks_[*offset] = Block{nbytes, false, whole};
    return at(*offset);
  }

  void free(uint8_t* address) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = blocks_.find(offset_of(address));
    if (it == blocks_.end()) return;
    touch();
    release(it->first, it->first + it->second.nbytes, it->second.sealed);
    blocks_.erase(it);
  }

  // True when the block now holds `nbytes` where it lies.
  bool resize(uint8_t* address, uint64_t nbytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = blocks_.find(offset_of(address));
    if (it == blocks_.end() || it->second.sealed) return false;
    uint64_t old = it->second.nbytes, unit = unit_for(nbytes, it->second.whole);
    nbytes = round_up(nbytes, unit);
    if (nbytes > old && it->first % unit) return false;  // it moves to whole pages of its own
    if (nbytes > old) {
      receive();
      if (!pool_.grow(it->first, old, nbytes)) return false;
      count_unsealed(nbytes - old);
    } else if (nbytes < old) {
      release(it->first + nbytes, it->first + old, false);
    }
    it->second.nbytes = nbytes;
    return true;
  }

  // Claims the pages of a live block that cover [address, address + nbytes) and are not
  // sealed yet, and makes them read-only. False when no live block covers the range, or when
  // that would take more mappings than a store should of the process's; the caller then copies.
  bool claim(const uint8_t* address, uint64_t nbytes, std::vector<Range>* claims) {
    std::lock_guard<std::mutex> lock(mutex_);
    uint64_t begin = offset_of(address), end = begin + nbytes;
    auto it = block_over(begin);
    if (it == blocks_.end() || end > it->first + it->second.nbytes || sealed_runs_ >= max_runs_)
      return false;
    it->second.sealed = true;
    // All of a block goes in its own units; of a part no more than its pages, since its owner
    // may go on writing the rest.
    uint64_t unit = unit_for(it->second.nbytes, it->second.whole);
    bool all = begin == it->first && round_up(end - begin, unit) == it->second.nbytes;
    auto gaps = all ? unsealed_in(begin, begin + it->second.nbytes)
                    : unsealed_in(round_down(begin, kPage), round_up(end, kPage));
    for (size_t i = 0; i < gaps.size(); i++) {
      if (protect(gaps[i].offset, gaps[i].nbytes, PROT_READ)) continue;
      while (i-- > 0) protect(gaps[i].offset, gaps[i].nbytes, PROT_READ | PROT_WRITE);
      return false;
    }
    for (auto gap : gaps) {
      enter_sealed(gap);
      claims->push_back(gap);
    }
    return true;
  }

  bool is_live(const uint8_t* address) {
    std::lock_guard<std::mutex> lock(mutex_);
    return block_over(offset_of(address)) != blocks_.end();
  }

  // Sealed ranges that live blocks of this process still show.
  std::vector<Range> sealed_in_use() {
    std::lock_guard<std::mutex> lock(mutex_);
    receive();
    std::vector<Range> out;
    for (auto [offset, nbytes] : sealed_)
      if (block_over(offset) != blocks_.end()) out.push_back({offset, nbytes});
    return out;
  }

  // ---- the put half: extents that a put fills and hands to the daemon

  bool allocate_extent(uint64_t nbytes, Range* out) {
    nbytes = round_up(nbytes, kPage);
    std::lock_guard<std::mutex> lock(mutex_);
    auto offset = take(put_, nbytes);
    if (!offset) return false;
    *out = {*offset, nbytes};
    return true;
  }
  uint8_t* writable(uint64_t offset) const { return alias_ + (offset - o_.offset - half_); }

  // The daemon has sealed these.
  void confirm(const std::vector<Range>& claims) {
    for (auto& c : claims) count_unsealed(-static_cast<int64_t>(c.nbytes));
  }
  // The daemon has not, and will not.
  void abandon(const std::vector<Range>& claims) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& c : claims) {
      if (in_pool(c.offset)) {
        leave_sealed(c.offset);
        protect(c.offset, c.nbytes, PROT_READ | PROT_WRITE);  // its owner may go on writing
      } else {
        count_unsealed(-static_cast<int64_t>(c.nbytes));
        put_.free(c.offset, c.nbytes);
      }
    }
    publish_warm();
  }

  void trim() {
    std::lock_guard<std::mutex> lock(mutex_);
    trim_locked();
  }

  // ---- Backing

  bool commit(uint64_t nbytes) override {
    int64_t need = static_cast<int64_t>(nbytes);
    do {
      if (take_credit(need)) return true;
      // What is granted may be revoked for another writer before it is taken: ask again.
    } while (ask_credit(need));
    receive();  // what the daemon gave back meanwhile has pages of ours that can go
    pool_.trim();
    put_.trim();
    return take_credit(need);
  }
  void uncommit(uint64_t nbytes) override { o_.table->credit.fetch_add(nbytes); }
  bool punch(uint64_t offset, uint64_t nbytes) override {
    uint8_t* where = in_pool(offset) ? at(offset) : writable(offset);
    return madvise(where, nbytes, MADV_REMOVE) == 0;
  }

 private:
  struct Block {
    uint64_t nbytes;
    bool sealed;  // some of its pages are, or were, sealed and protected
    bool whole;
  };

  // The protection of a whole huge page the kernel changes in one piece. It would else split
  // the page, at 28 µs for a MiB.
  uint64_t unit_for(uint64_t nbytes, bool whole) const {
    return whole && o_.huge && nbytes >= kHugePage / 2 ? kHugePage : kPage;
  }
  uint8_t* at(uint64_t offset) const { return o_.base + offset; }
  uint64_t offset_of(const uint8_t* address) const { return address - o_.base; }
  bool in_pool(uint64_t offset) const { return offset < o_.offset + half_; }
  void count_unsealed(int64_t n) { o_.table->unsealed.fetch_add(n, std::memory_order_relaxed); }
  void publish_warm() {
    o_.table->warm.store(pool_.warm_nbytes() + put_.warm_nbytes(), std::memory_order_relaxed);
  }
  // False at the kernel's limit of mappings (vm.max_map_count). Never throws: blocks are
  // freed on any thread, beneath code that knows no exceptions.
  bool protect(uint64_t offset, uint64_t nbytes, int mode) {
    return mprotect(at(offset), nbytes, mode) == 0;
  }
  // A range of the pool half is free again; it was sealed, so it must first be writable.
  void reopen(uint64_t offset, uint64_t nbytes) {
    if (protect(offset, nbytes, PROT_READ | PROT_WRITE)) pool_.free(offset, nbytes);
    else stuck_.insert(offset, nbytes);
  }

  std::optional<uint64_t> take(Allocator& from, uint64_t nbytes, uint64_t unit = kPage) {
    touch();
    receive();
    std::optional<uint64_t> offset;
    if (unit == kHugePage) offset = from.allocate_units(nbytes);
    if (!offset) offset = from.allocate(nbytes);  // what is left may lie as it likes
    if (offset) count_unsealed(nbytes);
    publish_warm();
    return offset;
  }

  std::map<uint64_t, Block>::iterator block_over(uint64_t offset) {
    auto it = blocks_.upper_bound(offset);
    if (it == blocks_.begin()) return blocks_.end();
    --it;
    return offset < it->first + it->second.nbytes ? it : blocks_.end();
  }

  // Sealed ranges side by side are one mapping to the kernel: that many runs there are.
  void enter_sealed(Range r) {
    auto it = sealed_.emplace(r.offset, r.nbytes).first;
    sealed_runs_ += 1 - sealed_neighbours(it);
  }
  void leave_sealed(uint64_t offset) {
    auto it = sealed_.find(offset);
    if (it == sealed_.end()) return;
    sealed_runs_ -= 1 - sealed_neighbours(it);
    sealed_.erase(it);
  }
  int sealed_neighbours(std::map<uint64_t, uint64_t>::iterator it) const {
    auto next = std::next(it);
    int n = next != sealed_.end() && next->first == it->first + it->second;
    if (it != sealed_.begin()) {
      auto before = std::prev(it);
      n += before->first + before->second == it->first;
    }
    return n;
  }

  std::vector<Range> unsealed_in(uint64_t begin, uint64_t end) {
    std::vector<Range> out;
    auto it = sealed_.upper_bound(begin);
    if (it != sealed_.begin() && std::prev(it)->first + std::prev(it)->second > begin) --it;
    for (; it != sealed_.end() && it->first < end; ++it) {
      if (it->first > begin) out.push_back({begin, it->first - begin});
      begin = it->first + it->second;
    }
    if (begin < end) out.push_back({begin, end - begin});
    return out;
  }

  // Frees what is not sealed of [begin, end) in the pool half.
  void release(uint64_t begin, uint64_t end, bool was_protected) {
    for (auto gap : unsealed_in(begin, end)) {
      count_unsealed(-static_cast<int64_t>(gap.nbytes));
      if (was_protected) reopen(gap.offset, gap.nbytes);
      else pool_.free(gap.offset, gap.nbytes);
    }
    publish_warm();
  }

  // Takes in the extents that the daemon gave back; true if there were any.
  bool receive() {
    ClientTable* t = o_.table;
    uint64_t tail = t->ring_tail.load(std::memory_order_relaxed);
    uint64_t head = t->ring_head.load(std::memory_order_acquire);
    if (head == tail) return false;
    RangeSet open;  // neighbours are made writable in one call
    for (; tail != head; tail++) take_back(t->ring()[tail % kRingEntries], &open);
    t->ring_tail.store(tail, std::memory_order_release);
    for (auto [offset, nbytes] : open.ranges()) reopen(offset, nbytes);
    return true;
  }

  void take_back(Range r, RangeSet* open) {
    if (!in_pool(r.offset)) return put_.free(r.offset, r.nbytes);
    leave_sealed(r.offset);
    // Parts that a live block still shows stay with it, the others are free.
    uint64_t begin = r.offset, end = r.offset + r.nbytes;
    while (begin < end) {
      auto it = block_over(begin);
      uint64_t stop = end;
      if (it != blocks_.end()) {
        stop = std::min(end, it->first + it->second.nbytes);
        count_unsealed(stop - begin);
      } else {
        auto next = blocks_.lower_bound(begin);
        if (next != blocks_.end()) stop = std::min(end, next->first);
        open->insert(begin, stop - begin);
      }
      begin = stop;
    }
  }

  bool take_credit(int64_t need) {
    int64_t have = o_.table->credit.load();
    while (have >= need)
      if (o_.table->credit.compare_exchange_weak(have, have - need)) return true;
    return false;
  }

  // Asks the daemon for credit and waits for its answer.
  bool ask_credit(int64_t need) {
    ClientTable* t = o_.table;
    uint32_t seen = t->answers.load();
    t->wanted.store(need);
    uint64_t one = 1;
    if (write(o_.event_fd, &one, sizeof(one)) < 0) return false;
    double deadline = monotonic_s() + o_.deadline_s;
    while (t->answers.load() == seen) {
      if (!o_.index->daemon_alive() || monotonic_s() > deadline) break;
      futex_wait(&t->answers, seen, 0.1);
    }
    bool refused = t->wanted.exchange(0) < 0;
    return t->answers.load() != seen && !refused;
  }

  void trim_locked() {
    receive();
    RangeSet stuck;
    std::swap(stuck, stuck_);
    for (auto [offset, nbytes] : stuck.ranges()) reopen(offset, nbytes);
    pool_.trim();
    put_.trim();
    publish_warm();
  }

  // Notes activity, and wakes the trimmer if it sleeps without a timeout.
  void touch() {
    active_ = monotonic_s();
    if (o_.table->asleep.exchange(0)) wake_trimmer();
  }
  void wake_trimmer() {
    o_.table->wake.fetch_add(1);
    futex_wake(&o_.table->wake);
  }

  void trim_when_idle() {
    ClientTable* t = o_.table;
    uint32_t trims = t->trims.load();
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stop_) {
      uint32_t seen = t->wake.load();
      if (receive()) active_ = monotonic_s();
      bool idle = monotonic_s() - active_ >= o_.idle_s;
      uint32_t asked = t->trims.load();
      if (idle || asked != trims) trim_locked();
      trims = asked;
      t->asleep.store(idle);
      if (idle && t->ring_head.load() != t->ring_tail.load()) continue;
      lock.unlock();
      futex_wait(&t->wake, seen, idle ? 3600.0 : o_.idle_s / 2);
      lock.lock();
    }
  }

  Options o_;
  uint64_t half_;
  void* wide_ = nullptr;
  uint8_t* alias_ = nullptr;
  std::mutex mutex_;
  Allocator pool_, put_;
  RangeSet stuck_;                        // free, but the kernel would not make it writable
  std::map<uint64_t, Block> blocks_;      // live blocks of the pool half
  std::map<uint64_t, uint64_t> sealed_;   // sealed ranges of the pool half
  int64_t sealed_runs_ = 0;
  const int64_t max_runs_ = max_mappings() / 4;  // two mappings each: half is left to others
  double active_ = 0;
  bool stop_ = false;
  std::thread trimmer_;
};

}  // namespace vineyard
