// Memory for the time of one call, on huge pages where it is large: fresh small pages would cost
// more than what is written to them.
#pragma once

#include <stdint.h>
#include <sys/mman.h>

#include <new>
#include <utility>

namespace vineyard::graph {

template <typename T>
class Scratch {
 public:
  explicit Scratch(uint64_t count = 0) { grow(count); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

  // Makes room for `count` at least; what was there is lost. Fresh memory is zero.
  T* grow(uint64_t count) {
    if (count <= count_) return data_;
    release();
    uint64_t nbytes = (count * sizeof(T) + kHuge - 1) / kHuge * kHuge;
    void* p = mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    madvise(p, nbytes, MADV_HUGEPAGE);
    data_ = static_cast<T*>(p), nbytes_ = nbytes, count_ = nbytes / sizeof(T);
    return data_;
  }

  T* data() { return data_; }
  T& operator[](uint64_t i) { return data_[i]; }

 private:
  static constexpr uint64_t kHuge = 2 << 20;
  void release() {
    if (data_) munmap(data_, nbytes_);
    data_ = nullptr, nbytes_ = count_ = 0;
  }
  T* data_ = nullptr;
  uint64_t nbytes_ = 0, count_ = 0;
};

}  // namespace vineyard::graph
