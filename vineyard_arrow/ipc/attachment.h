// One process's view of a store: the reserved address space, the mapped segments, the
// index, the pins, and the Arrow memory pool on top of the writer's lease.
//
// Lifetime: counted. Python holds one reference, each body of a get and each block of the
// pool another, so the mappings outlive the client object for as long as any Arrow buffer
// needs them. The last one out closes the socket, which is how the daemon learns of it.
// The fork hooks watch it until then, also when no client of Python's is left.
#pragma once

#include <arrow/buffer.h>
#include <arrow/memory_pool.h>
#include <arrow/status.h>

#include <map>
#include <memory>

#include "lease.h"

namespace vineyard {

// Bumped in every forked child, before any other code of ours runs there.
inline std::atomic<uint64_t> g_forks{0};
inline void watch_forks() {
  static int once = pthread_atfork(nullptr, nullptr, [] { g_forks.fetch_add(1); });
  (void)once;
}

class Attachment;

class Pool final : public arrow::MemoryPool {
 public:
  // `whole`: large blocks have whole huge pages to themselves, see Lease::allocate.
  // `spills`: once the store has no room, blocks come from private memory, for as long as there
  // are any: being refused takes time.
  Pool(Attachment* owner, bool whole, bool spills = false)
      : owner_(owner), whole_(whole), spills_(spills), private_(arrow::default_memory_pool()) {}

  using arrow::MemoryPool::Allocate;
  using arrow::MemoryPool::Free;
  using arrow::MemoryPool::Reallocate;
  arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t** out) override;
  arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment,
                           uint8_t** ptr) override;
  void Free(uint8_t* buffer, int64_t size, int64_t alignment) override;
  void ReleaseUnused() override;
  int64_t bytes_allocated() const override { return stats_.bytes_allocated(); }
  int64_t max_memory() const override { return stats_.max_memory(); }
  int64_t total_bytes_allocated() const override { return stats_.total_bytes_allocated(); }
  int64_t num_allocations() const override { return stats_.num_allocations(); }
  std::string backend_name() const override { return "vineyard"; }
  // Bytes of blocks that a put would gladly have shared, and that lie in private memory.
  int64_t spilled() const { return spilled_.load(std::memory_order_relaxed); }

 private:
  bool is_shared(const uint8_t* p) const;
  bool has_lease() const;
  arrow::Status allocate_private(int64_t size, int64_t alignment, uint8_t** out);
  Attachment* owner_;
  bool whole_, spills_;
  std::atomic<int64_t> spilled_{0};
  // Blocks below the seal threshold: a put gathers them by copy whatever they lie in.
  arrow::MemoryPool* private_;
  arrow::internal::MemoryPoolStats stats_;
};

class Attachment {
 public:
  Attachment(int index_fd, int socket_fd)
      : pool(this, false), stream_pool(this, true), spilling_pool(this, false, true), socket_fd_(socket_fd) {
    watch_forks();
    generation_ = g_forks.load();
    struct Guard {  // unmaps what a failing constructor has mapped
      Attachment* self;
      ~Guard() { if (self) self->unmap(); }
    } guard{this};
    IndexHeader header;
    if (pread(index_fd, &header, sizeof(header), 0) != sizeof(header) || header.magic != kIndexMagic)
      throw std::runtime_error("not an index of a store");
    index_nbytes_ = vineyard::index_nbytes(header.num_buckets, header.num_slots);
    void* at = mmap(nullptr, index_nbytes_, PROT_READ, MAP_SHARED | MAP_NORESERVE, index_fd, 0);
    if (at == MAP_FAILED) throw system_error("mmap of the index");
    index_address_ = at;
    index.open(at);
    space = header.space_nbytes;
    wide_ = mmap(nullptr, space + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (wide_ == MAP_FAILED) throw system_error("reserving the address space of the store");
    base = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uint64_t>(wide_), kHugePage));
    guard.self = nullptr;
  }

  void ref() { refs_.fetch_add(1, std::memory_order_relaxed); }
  void unref() {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    dispose();
    unwatch();
  }
  // A reference if anybody still has one; else everything is given back already.
  bool try_ref() {
    int64_t n = refs_.load(std::memory_order_relaxed);
    while (n > 0)
      if (refs_.compare_exchange_weak(n, n + 1, std::memory_order_acquire)) return true;
    return false;
  }
  bool shared() const { return refs_.load() > 1; }
  // A watcher keeps these few bytes, so that it can try_ref, and nothing else.
  void watch() { watchers_.fetch_add(1, std::memory_order_relaxed); }
  void unwatch() {
    if (watchers_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  bool contains(const void* p) const {
    auto a = static_cast<const uint8_t*>(p);
    return a >= base && a < base + space;
  }
  uint64_t offset_of(const void* p) const { return static_cast<const uint8_t*>(p) - base; }
  bool in_child() const { return generation_ != g_forks.load(std::memory_order_relaxed); }
  bool daemon_alive() const { return index.daemon_alive(); }

  // ---- connection: the table and event descriptor of this process, replaced after a fork

  void set_table(int table_fd, int event_fd) {
    uint64_t nbytes = ClientTable::nbytes(index.header->num_slots);
    void* at = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, table_fd, 0);
    if (at == MAP_FAILED) throw system_error("mmap of the client table");
    madvise(at, nbytes, MADV_DONTFORK);
    if (table && !in_child()) munmap(table, nbytes);
    if (event_fd_ >= 0) close(event_fd_);
    event_fd_ = event_fd;
    table = static_cast<ClientTable*>(at);
  }

  // In a forked child: forget what belongs to the parent; its pool half, which was not
  // inherited, is mapped read-only instead.
  // `prepared`: the next table is a copy of the parent's, so inherited pins are in it.
  void after_fork(int socket_fd, bool prepared) {
    if (!prepared) table_number++;
    generation_ = g_forks.load();
    if (lease) {
      uint64_t half = lease_nbytes_ / 2;
      mmap(base + lease_offset_, half, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, lease_ro_fd_, 0);
      lease = nullptr;  // leaked: its lock and thread are the parent's
    }
    if (socket_fd_ >= 0) close(socket_fd_);
    socket_fd_ = socket_fd;
    table = nullptr;
  }
  void set_socket(int fd) { socket_fd_ = fd; }
  int socket() const { return socket_fd_; }

  // ---- segments

  void map_segment(uint64_t offset, uint64_t nbytes, int ro_fd, bool huge) {
    if (offset % kPage || offset > space || nbytes > space - offset)
      throw std::runtime_error("segment outside of the address space");
    void* at = mmap(base + offset, nbytes, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, ro_fd, 0);
    if (at == MAP_FAILED) throw system_error("mmap of a segment");
    if (huge) madvise(at, nbytes, MADV_HUGEPAGE);
  }

  void unmap_segment(uint64_t offset, uint64_t nbytes) {
    void* at = mmap(base + offset, nbytes, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw system_error("unmapping a segment");
  }

  void set_lease(uint64_t offset, uint64_t nbytes, int rw_fd, int ro_fd, bool huge, double idle_s,
                 double deadline_s) {
    lease = new Lease({base, offset, nbytes, rw_fd, huge, idle_s, deadline_s, event_fd_, table, &index});
    lease_offset_ = offset;
    lease_nbytes_ = nbytes;
    lease_ro_fd_ = ro_fd;
  }

  // ---- the outbox

  // Leaves a put of `objects` for the daemon to take up; false when there is no room or no
  // allowance for it, or no daemon. One thread at a time.
  bool leave(const void* message, uint64_t n, int64_t objects) {
    ClientTable* t = table;
    if (!t) return false;
    uint64_t head = t->out_head.load(std::memory_order_relaxed);
    uint64_t used = head - t->out_tail.load(std::memory_order_acquire);
    uint64_t needs = sizeof(n) + round_up(n, 8);
    if (!n || n > kMaxOutboxEntry || used + needs > kOutboxNbytes || !daemon_alive()) return false;
    int64_t allowed = t->allowance.load();
    do {
      if (allowed < objects) return false;
    } while (!t->allowance.compare_exchange_weak(allowed, allowed - objects));
    write_out(head, &n, sizeof(n));
    write_out(head + sizeof(n), message, n);
    t->out_head.store(head + needs);
    // Half full, the daemon should come and take it; and at once if somebody waits for it.
    bool urgent = index.header->waiters.load() != 0 || used + needs > kOutboxNbytes / 2;
    if (urgent && !t->out_kicked.exchange(1)) {
      uint64_t one = 1;
      if (write(event_fd_, &one, sizeof(one)) < 0) t->out_kicked.store(0);
    }
    return true;
  }

  // ---- streams

  // A reader needs nothing before batch `next` any more: all it took is pinned.
  void set_cursor(uint32_t word, uint64_t next) {
    table->words[word].store(next);
    if (index.header->room_waiters.load() == 0) return;
    [[maybe_unused]] auto n = write(event_fd_, &kCursorKick, sizeof(kCursorKick));
  }

  // ---- pins

  int64_t pin(uint64_t id) {
    int64_t found = vineyard::pin(index, table, event_fd_, id);
    if (found < 0) return kMiss;
    pinned.fetch_add(1, std::memory_order_relaxed);
    ref();
    return found;
  }

  // Runs wherever the last Arrow buffer of a get dies: any thread, no GIL, no socket. A pin
  // that is not in today's table (a parent's, that no connection was prepared for) is none
  // of ours to drop.
  void unpin(int64_t slot, uint64_t pinned_in) {
    if (!in_child() && table && pinned_in == table_number)
      vineyard::unpin(index, table, event_fd_, slot);
    pinned.fetch_sub(1, std::memory_order_relaxed);
    unref();
  }

  int64_t find_name(const char* name, uint64_t n, uint64_t* id) const {
    return index.find_name(base, name, n, id);
  }

  Pool pool, stream_pool, spilling_pool;
  uint8_t* base = nullptr;
  uint64_t space = 0;
  IndexView index;
  ClientTable* table = nullptr;
  Lease* lease = nullptr;
  std::atomic<int64_t> pinned{0};
  uint64_t table_number = 0;  // of the table that pins go to; changes only in a fresh child

 private:
  ~Attachment() = default;
  void dispose() {
    if (!in_child()) delete lease;
    unmap();
    if (event_fd_ >= 0) close(event_fd_);
    if (socket_fd_ >= 0) close(socket_fd_);
    if (lease_ro_fd_ >= 0) close(lease_ro_fd_);
  }
  void unmap() {
    if (table && !in_child()) munmap(table, ClientTable::nbytes(index.header->num_slots));
    if (wide_ && wide_ != MAP_FAILED) munmap(wide_, space + kHugePage);
    if (index_address_) munmap(index_address_, index_nbytes_);
  }
  void write_out(uint64_t at, const void* from, uint64_t n) {
    uint64_t to = at % kOutboxNbytes, first = std::min(n, kOutboxNbytes - to);
    memcpy(table->outbox() + to, from, first);
    memcpy(table->outbox(), static_cast<const uint8_t*>(from) + first, n - first);
  }

  std::atomic<int64_t> refs_{1};
  std::atomic<int64_t> watchers_{1};  // one for all references
  uint64_t generation_ = 0;
  void* wide_ = nullptr;
  void* index_address_ = nullptr;
  uint64_t index_nbytes_ = 0;
  int socket_fd_ = -1, event_fd_ = -1, lease_ro_fd_ = -1;
  uint64_t lease_offset_ = 0, lease_nbytes_ = 0;
};

// ---- the pool ------------------------------------------------------------------------------

inline bool Pool::is_shared(const uint8_t* p) const { return owner_->contains(p); }
inline bool Pool::has_lease() const { return !owner_->in_child() && owner_->lease; }
inline int64_t nbytes_spilled(int64_t size) { return size < kSealThreshold ? 0 : size; }

inline arrow::Status Pool::allocate_private(int64_t size, int64_t alignment, uint8_t** out) {
  ARROW_RETURN_NOT_OK(private_->Allocate(size, alignment, out));
  spilled_ += nbytes_spilled(size);
  return arrow::Status::OK();
}

inline arrow::Status Pool::Allocate(int64_t size, int64_t alignment, uint8_t** out) {
  if (size < kSealThreshold || alignment > static_cast<int64_t>(kPage) || !has_lease()) {
    ARROW_RETURN_NOT_OK(allocate_private(size, alignment, out));
  } else if (uint8_t* block = spilled() > 0 && spills_ ? nullptr : owner_->lease->allocate(size, whole_)) {
    *out = block;
  } else if (spills_) {
    ARROW_RETURN_NOT_OK(allocate_private(size, alignment, out));
  } else {
    return arrow::Status::OutOfMemory(
        "the store has no room for ", size, " bytes",
        owner_->daemon_alive() ? ": delete objects, drop arrays of deleted ones, or start the daemon with a "
                                 "larger --memory-limit; `vineyard-arrow doctor` shows who holds what"
                               : " (its daemon is gone)");
  }
  owner_->ref();
  stats_.DidAllocateBytes(size);
  return arrow::Status::OK();
}

inline arrow::Status Pool::Reallocate(int64_t old_size, int64_t new_size, int64_t alignment,
                                      uint8_t** ptr) {
  bool shared = is_shared(*ptr);
  if (!shared && (new_size < kSealThreshold || !has_lease())) {
    ARROW_RETURN_NOT_OK(private_->Reallocate(old_size, new_size, alignment, ptr));
    spilled_ += nbytes_spilled(new_size) - nbytes_spilled(old_size);
  } else if (shared && new_size >= kSealThreshold && has_lease() && owner_->lease->owns_block(*ptr) &&
             owner_->lease->resize(*ptr, new_size)) {
    // It grew or shrank where it lies.
  } else {
    uint8_t* to;
    ARROW_RETURN_NOT_OK(Allocate(new_size, alignment, &to));
    memcpy(to, *ptr, std::min(old_size, new_size));
    Free(*ptr, old_size, alignment);
    *ptr = to;
    return arrow::Status::OK();
  }
  stats_.DidReallocateBytes(old_size, new_size);
  return arrow::Status::OK();
}

inline void Pool::Free(uint8_t* buffer, int64_t size, int64_t alignment) {
  if (!is_shared(buffer)) {
    private_->Free(buffer, size, alignment);
    spilled_ -= nbytes_spilled(size);
  } else if (has_lease() && owner_->lease->owns_block(buffer)) {
    owner_->lease->free(buffer);  // a block inherited from a parent is the parent's to free
  }
  stats_.DidFreeBytes(size);
  owner_->unref();
}

inline void Pool::ReleaseUnused() {
  if (has_lease()) owner_->lease->trim();
  private_->ReleaseUnused();
}

// ---- the body of a get ---------------------------------------------------------------------

// The whole store as one Arrow buffer. Every buffer of a get is a slice of one of these and
// keeps it; when the last slice dies, the pin goes.
class PinnedBody final : public arrow::Buffer {
 public:
  PinnedBody(Attachment* attachment, int64_t slot)
      : arrow::Buffer(attachment->base, attachment->space), attachment_(attachment), slot_(slot),
        pinned_in_(attachment->table_number) {}
  ~PinnedBody() override { attachment_->unpin(slot_, pinned_in_); }

 private:
  Attachment* attachment_;
  int64_t slot_;
  uint64_t pinned_in_;
};

// A private copy-on-write mapping of some pages of the store, kept with its pin.
class CowBody final : public arrow::MutableBuffer {
 public:
  CowBody(uint8_t* data, int64_t nbytes, std::shared_ptr<arrow::Buffer> pinned)
      : arrow::MutableBuffer(data, nbytes), pinned_(std::move(pinned)) {}
  ~CowBody() override { munmap(const_cast<uint8_t*>(data()), capacity()); }

 private:
  std::shared_ptr<arrow::Buffer> pinned_;
};

}  // namespace vineyard
