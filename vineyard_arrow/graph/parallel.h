// Work on several threads: started for one call, gone when it returns. No pool stays behind, so
// a fork finds none. Starting one costs about 20 µs: below that, work on the caller's thread.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace vineyard::graph {

constexpr int kDefaultThreads = 2;

// How many threads `asked` stands for: at least one; kDefaultThreads (or fewer cores) if < 1.
inline int threads_of(int asked) {
  if (asked >= 1) return asked;
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, std::min(kDefaultThreads, cores));
}

// Runs f(worker) for each worker in [0, threads), worker 0 on the caller's thread. The first
// exception is rethrown once all are done. `f` may synchronise its workers (std::barrier) only if
// it does not throw between them, and counts on all of them running: they do, or nothing runs.
template <typename F>
void run_workers(int threads, F&& f) {
  if (threads <= 1) return f(0);
  std::exception_ptr error;
  std::mutex error_lock;
  std::atomic<int> go{0};  // 1: run, -1: some thread could not be started
  auto guarded = [&](int worker) {
    try {
      f(worker);
    } catch (...) {
      std::lock_guard<std::mutex> hold(error_lock);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  auto start = [&](int verdict) {
    go.store(verdict);
    go.notify_all();
  };
  try {
    others.reserve(threads - 1);
    for (int w = 1; w < threads; ++w) {
      others.emplace_back([&, w] {
        go.wait(0);
        if (go.load() > 0) guarded(w);
      });
    }
  } catch (...) {
    start(-1);
    for (auto& t : others) t.join();
    throw;
  }
  start(1);
  guarded(0);
  for (auto& t : others) t.join();
  if (error) std::rethrow_exception(error);
}

// Runs f(i, worker) for each i in [0, n), handed out one by one to whoever is free, in
// ascending order. For a few hundred pieces of uneven size.
template <typename F>
void parallel_for(int64_t n, int threads, F&& f) {
  std::atomic<int64_t> next{0};
  threads = static_cast<int>(std::min<int64_t>(threads, n));
  run_workers(threads, [&](int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(i, worker);
  });
}

// Runs f(begin, end, worker) over [0, n) cut in equal ranges, one a thread; on the caller's alone
// if there are fewer than `grain` a thread. Ranges are in the order of the workers.
template <typename F>
void parallel_ranges(int64_t n, int threads, int64_t grain, F&& f) {
  threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, n / grain)));
  run_workers(threads, [&](int worker) {
    f(n * worker / threads, n * (worker + 1) / threads, worker);
  });
}

}  // namespace vineyard::graph
