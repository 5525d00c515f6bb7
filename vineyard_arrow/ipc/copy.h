// Copies into shared memory: streaming stores, and two threads where it pays.
#pragma once

#include <stdint.h>
#include <string.h>

#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace vineyard {

constexpr uint64_t kStreamFrom = 4 << 20;    // below that the caches do better
constexpr uint64_t kThreadsFrom = 8 << 20;

inline void copy_one(uint8_t* to, const uint8_t* from, uint64_t n) {
#if defined(__SSE2__)
  if (n >= kStreamFrom) {
    uint64_t head = (-reinterpret_cast<uintptr_t>(to)) & 63;
    memcpy(to, from, head);
    to += head, from += head, n -= head;
    for (; n >= 64; n -= 64, to += 64, from += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(from) + 512, _MM_HINT_NTA);
      auto src = reinterpret_cast<const __m128i*>(from);
      auto dst = reinterpret_cast<__m128i*>(to);
      __m128i a = _mm_loadu_si128(src), b = _mm_loadu_si128(src + 1);
      __m128i c = _mm_loadu_si128(src + 2), d = _mm_loadu_si128(src + 3);
      _mm_stream_si128(dst, a), _mm_stream_si128(dst + 1, b);
      _mm_stream_si128(dst + 2, c), _mm_stream_si128(dst + 3, d);
    }
    _mm_sfence();
  }
#endif
  memcpy(to, from, n);
}

struct CopyTask {
  uint8_t* to;
  const uint8_t* from;
  uint64_t nbytes;
};

// Runs all tasks; the second half of the bytes in a thread of its own when there are many.
inline void copy_all(const std::vector<CopyTask>& tasks) {
  uint64_t total = 0;
  for (auto& t : tasks) total += t.nbytes;
  auto run = [&tasks](uint64_t begin, uint64_t end) {
    uint64_t at = 0;
    for (auto& t : tasks) {
      uint64_t from = begin > at ? begin - at : 0;
      uint64_t to = end < at + t.nbytes ? (end > at ? end - at : 0) : t.nbytes;
      if (from < to) copy_one(t.to + from, t.from + from, to - from);
      at += t.nbytes;
    }
  };
  if (total < kThreadsFrom || std::thread::hardware_concurrency() < 2) return run(0, total);
  uint64_t half = total / 2 / (2 << 20) * (2 << 20);
  std::thread other;
  try {
    other = std::thread(run, half, total);
  } catch (const std::system_error&) {  // no thread to be had: one will do
    return run(0, total);
  }
  run(0, half);
  other.join();
}

}  // namespace vineyard
