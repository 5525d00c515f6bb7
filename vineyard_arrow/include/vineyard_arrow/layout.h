// Structures that live in shared memory, and the few system calls around them.
//
// Two files are laid out here. The *index* is written by the daemon and mapped read-only
// by clients: a hash table from object id or name to the place of its metadata. The
// *client table* is shared by one client and the daemon: pins, credit, counters, the ring
// through which freed extents come home, the outbox, in which a client leaves puts that the
// daemon takes up before it does anything else, and how far its streams have come.
// Nothing here knows of Arrow or Python.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <string>

namespace vineyard {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2 << 20;
constexpr int64_t kSealThreshold = 64 << 10;  // smaller buffers are gathered by copy
constexpr uint64_t kIndexMagic = 0x3178646e49415956;  // "VYAIndx1"

inline uint64_t round_up(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }
inline uint64_t round_down(uint64_t n, uint64_t unit) { return n / unit * unit; }

inline std::runtime_error system_error(const char* what) {
  return std::runtime_error(std::string(what) + ": " + strerror(errno));
}

inline double monotonic_s() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

// How many mappings the kernel allows this process.
inline int64_t max_mappings() {
  int64_t n = 65530;  // the kernel's default
  if (FILE* file = fopen("/proc/sys/vm/max_map_count", "r")) {
    if (fscanf(file, "%ld", &n) != 1) n = 65530;
    fclose(file);
  }
  return n;
}

// Waits until *word != expected, a wake-up or the timeout; spurious returns are fine.
inline void futex_wait(std::atomic<uint32_t>* word, uint32_t expected, double timeout_s) {
  timespec t{static_cast<time_t>(timeout_s),
             static_cast<long>((timeout_s - static_cast<time_t>(timeout_s)) * 1e9)};
  syscall(SYS_futex, word, FUTEX_WAIT, expected, &t, nullptr, 0);
}

inline void futex_wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

// ---- the index -------------------------------------------------------------------------

enum SlotKind : uint32_t { kFree = 0, kObject = 1, kName = 2 };

struct alignas(64) Slot {
  std::atomic<uint32_t> seq;   // odd: dead (deleted, or being written)
  std::atomic<uint32_t> kind;  // SlotKind
  std::atomic<uint64_t> key;   // object id, or hash of the name
  std::atomic<uint64_t> offset;  // logical offset of the metadata, or of the name's UTF-8
  std::atomic<uint64_t> nbytes;
  std::atomic<uint64_t> target;  // names: the object id
};

struct IndexHeader {
  uint64_t magic;
  uint64_t num_buckets;  // a power of two
  uint64_t num_slots;
  uint64_t space_nbytes;    // size of the logical address space
  uint64_t catalog_offset;  // where the daemon's own segment lies in it
  uint64_t catalog_nbytes;
  uint64_t instance;
  std::atomic<uint32_t> waiters;  // > 0: somebody waits for an object, so an outbox must kick
  std::atomic<uint32_t> room_waiters;  // > 0: a stream's writer waits, so its readers must kick
  // Held by the daemon's main thread as long as it lives. The kernel marks it when that
  // thread dies, however it dies, so a reader learns of it without a system call.
  alignas(64) pthread_mutex_t liveness;
};

constexpr uint64_t kBucketsOffset = kPage;

inline uint64_t index_slots_offset(uint64_t num_buckets) {
  return kBucketsOffset + round_up(num_buckets * 8, kPage);
}
inline uint64_t index_nbytes(uint64_t num_buckets, uint64_t num_slots) {
  return index_slots_offset(num_buckets) + num_slots * sizeof(Slot);
}

// A bucket: upper half of the hash as a tag, slot number + 1; zero is empty.
inline uint64_t bucket_entry(uint64_t hash, uint32_t slot) {
  return (hash >> 32 << 32) | (slot + 1);
}

inline uint64_t mix64(uint64_t x) {  // finaliser of splitmix64 (Steele, Lea, Flood 2014)
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
inline uint64_t hash_of(uint64_t key, uint32_t kind) { return mix64(key + kind * 0x9e3779b97f4a7c15); }
// Where probing begins. Ids come in sequence, and 64 in sequence share a stretch of the table:
// with one apiece every new object would touch a page that nobody has touched before.
inline uint64_t home_of(uint64_t key, uint32_t kind) {
  return kind == kObject ? mix64(key >> 6) << 6 | (key & 63) : hash_of(key, kind);
}

inline uint64_t hash_name(const char* s, size_t n) {  // FNV-1a, 64 bits
  uint64_t h = 0xcbf29ce484222325;
  for (size_t i = 0; i < n; i++) h = (h ^ static_cast<uint8_t>(s[i])) * 0x100000001b3;
  return h;
}

constexpr int64_t kMiss = -1;

// A miss is never final: an entry may be just moving, and puts may wait in outboxes. The
// daemon knows (Find).
struct IndexView {
  IndexHeader* header = nullptr;
  std::atomic<uint64_t>* buckets = nullptr;
  Slot* slots = nullptr;

  void open(void* address) {
    header = static_cast<IndexHeader*>(address);
    char* p = static_cast<char*>(address);
    buckets = reinterpret_cast<std::atomic<uint64_t>*>(p + kBucketsOffset);
    slots = reinterpret_cast<Slot*>(p + index_slots_offset(header->num_buckets));
  }

  bool daemon_alive() const {
    auto word = reinterpret_cast<const std::atomic<uint32_t>*>(&header->liveness.__data.__lock);
    uint32_t value = word->load(std::memory_order_relaxed);
    return value != 0 && !(value & FUTEX_OWNER_DIED);
  }

  // The slot of an entry, or kMiss. It may be dead, or another's, by the time one looks.
  int64_t find(uint64_t key, uint32_t kind) const {
    uint64_t mask = header->num_buckets - 1;
    uint64_t hash = hash_of(key, kind);
    for (uint64_t i = home_of(key, kind) & mask, n = 0; n <= mask; i = (i + 1) & mask, n++) {
      uint64_t entry = buckets[i].load(std::memory_order_acquire);
      if (!entry) return kMiss;
      if ((entry ^ hash) >> 32) continue;
      uint32_t slot = static_cast<uint32_t>(entry) - 1;
      const Slot& s = slots[slot];
      if (s.key.load(std::memory_order_relaxed) == key && s.kind.load(std::memory_order_relaxed) == kind)
        return slot;
    }
    return kMiss;
  }

  // The slot of a name, or kMiss; `id` receives the object it points to. `base`: where the
  // store is mapped.
  int64_t find_name(const uint8_t* base, const char* name, uint64_t n, uint64_t* id) const {
    int64_t found = find(hash_name(name, n), kName);
    if (found < 0) return kMiss;
    const Slot& s = slots[found];
    uint32_t seq = s.seq.load();
    uint64_t offset = s.offset.load(), nbytes = s.nbytes.load(), target = s.target.load();
    const IndexHeader& h = *header;
    if (seq & 1 || nbytes != n || offset < h.catalog_offset ||
        offset + n > h.catalog_offset + h.catalog_nbytes || memcmp(base + offset, name, n) != 0)
      return kMiss;
    if (s.seq.load() != seq) return kMiss;
    *id = target;
    return found;
  }
};

// ---- the client table --------------------------------------------------------------------

struct Range {
  uint64_t offset, nbytes;
};

constexpr uint64_t kRingEntries = 4096;
constexpr uint64_t kRingOffset = kPage;
constexpr uint64_t kOutboxOffset = kRingOffset + kRingEntries * sizeof(Range);
constexpr uint64_t kOutboxNbytes = 256 << 10;
constexpr uint64_t kMaxOutboxEntry = kOutboxNbytes / 2;
constexpr uint64_t kPinsOffset = kOutboxOffset + kOutboxNbytes;
constexpr uint32_t kWords = 384;
// What a kick adds to the event descriptor: a count of each reason.
constexpr uint64_t kKick = 1;
constexpr uint64_t kCursorKick = 1ull << 32;

struct ClientTable {
  // Credit: bytes the writer may still commit. The daemon adds, either side takes.
  alignas(64) std::atomic<int64_t> credit;
  std::atomic<int64_t> wanted;       // > 0: the writer waits for that much
  std::atomic<uint32_t> answers;     // futex: bumped with every answer to `wanted`
  std::atomic<uint32_t> trims;       // bumped to ask for a trim of all warm pages
  std::atomic<uint32_t> wake;        // futex: the writer's trimmer sleeps here
  std::atomic<uint32_t> asleep;      // the trimmer sleeps without a timeout
  // Kept by the writer, read by the daemon.
  alignas(64) std::atomic<int64_t> unsealed;  // allocated, not sealed
  std::atomic<int64_t> warm;                  // free, with pages
  std::atomic<int64_t> copied, gathered, shared;
  // Extents on their way back to the writer; one producer, one consumer.
  alignas(64) std::atomic<uint64_t> ring_head;  // written by the daemon
  alignas(64) std::atomic<uint64_t> ring_tail;  // written by the writer
  // The outbox: bytes ever written and ever read. An entry is a length (uint64) and a
  // message, padded to 8 bytes; it wraps around.
  alignas(64) std::atomic<uint64_t> out_head;  // written by the writer
  std::atomic<uint32_t> out_kicked;            // the writer has kicked the daemon about it
  alignas(64) std::atomic<uint64_t> out_tail;  // written by the daemon
  std::atomic<int64_t> allowance;              // objects that the writer may still leave there
  // Streams. A reader has one word, which the client writes: the number of the batch it needs
  // next. A writer has two, which the daemon writes: batches and bytes that were let go.
  alignas(64) std::atomic<uint64_t> words[kWords];

  Range* ring() { return reinterpret_cast<Range*>(reinterpret_cast<char*>(this) + kRingOffset); }
  uint8_t* outbox() { return reinterpret_cast<uint8_t*>(this) + kOutboxOffset; }
  std::atomic<uint32_t>* pins() {
    return reinterpret_cast<std::atomic<uint32_t>*>(reinterpret_cast<char*>(this) + kPinsOffset);
  }
  static uint64_t nbytes(uint64_t num_slots) { return kPinsOffset + round_up(num_slots * 4, kPage); }
};

static_assert(sizeof(ClientTable) <= kPage);

// ---- pins ----------------------------------------------------------------------------------

inline void unpin(const IndexView& index, ClientTable* table, int event_fd, int64_t slot) {
  table->pins()[slot].fetch_sub(1);
  if (index.slots[slot].seq.load() & 1) {  // deleted meanwhile: the daemon waits for us
    uint64_t one = 1;
    [[maybe_unused]] auto n = write(event_fd, &one, sizeof(one));
  }
}

// Pins the object and returns its slot, or kMiss. The counterpart is the daemon's
// delete, which marks the slot dead and then looks at the pins: with both sides
// sequentially consistent, at least one of them sees the other.
inline int64_t pin(const IndexView& index, ClientTable* table, int event_fd, uint64_t id) {
  for (;;) {
    int64_t found = index.find(id, kObject);
    if (found < 0) return kMiss;
    const Slot& s = index.slots[found];
    uint32_t seq = s.seq.load();
    if (seq & 1) return kMiss;
    table->pins()[found].fetch_add(1);
    if (s.seq.load() == seq && s.key.load() == id) return found;
    unpin(index, table, event_fd, found);
  }
}

static_assert(std::atomic<uint64_t>::is_always_lock_free);

}  // namespace vineyard
