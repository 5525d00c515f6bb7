// Random operations on allocator.h against a map of pages, the slow and obvious way.
// Prints the number of steps; aborts with a message at the first difference.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "allocator.h"

using namespace vineyard;

#define CHECK(x) \
  if (!(x)) fprintf(stderr, "line %d, seed %u, step %d: %s\n", __LINE__, seed, step, #x), abort()

enum Page : char { kCold, kWarm, kUsed, kNever };

struct Model final : Backing {
  std::vector<Page> pages;
  uint64_t committed = 0, limit = 0;
  bool refuse_punch = false;
  Allocator* trim_while_waiting = nullptr;

  bool commit(uint64_t n) override {
    if (trim_while_waiting) trim_while_waiting->trim();  // as a lease may, out of credit
    if (committed + n > limit) return false;
    committed += n;
    return true;
  }
  void uncommit(uint64_t n) override { committed -= n; }
  bool punch(uint64_t offset, uint64_t n) override {
    if (refuse_punch) return false;
    for (uint64_t i = offset / kPage; i < (offset + n) / kPage; i++) {
      if (pages[i] != kWarm) abort();  // a page in use, or one that has no memory
      pages[i] = kCold;
    }
    return true;
  }
};

int main(int argc, char** argv) {
  unsigned seeds = atoi(argv[1]), steps = atoi(argv[2]);
  for (unsigned seed = 0; seed < seeds; seed++) {
    int step = -1;
    std::mt19937 rng(seed);
    const uint64_t unit = seed % 2 ? kPage : 16 * kPage, total = 1024 * kPage;
    Model model;
    model.pages.assign(total / kPage, kNever);
    Allocator allocator(&model, unit);
    // Free ranges need not fill units: the ends are then never handed out.
    for (uint64_t at = seed % 3 * kPage; at + 64 * kPage < total; at += 300 * kPage) {
      uint64_t n = std::min<uint64_t>(250 * kPage, total - at);
      allocator.add(at, n);
      for (uint64_t i = round_up(at, unit); i < round_down(at + n, unit); i += kPage)
        model.pages[i / kPage] = kCold;
    }
    std::vector<Range> live;
    auto settle = [&] {  // pages of committed units that no allocation took are warm
      uint64_t warm = 0, used = 0;
      for (auto p : model.pages) warm += p == kWarm, used += p == kUsed;
      CHECK(allocator.warm_nbytes() + used * kPage == model.committed);
      CHECK(warm * kPage == allocator.warm_nbytes());
    };
    auto take = [&](uint64_t offset, uint64_t n) {
      for (uint64_t i = offset / kPage; i < (offset + n) / kPage; i++) {
        CHECK(i < model.pages.size());
        CHECK(model.pages[i] == kWarm || model.pages[i] == kCold);
        model.pages[i] = kUsed;
      }
      // The rest of the units that were committed for it.
      uint64_t end = offset + n;
      for (uint64_t i = end / kPage; i < round_up(end, unit) / kPage && i < model.pages.size(); i++)
        if (model.pages[i] == kCold && end % unit) model.pages[i] = kWarm;
    };
    for (step = 0; step < static_cast<int>(steps); step++) {
      model.limit = (rng() % 4 ? 700 : 100) * kPage;
      if (model.limit < model.committed) model.limit = model.committed;
      model.trim_while_waiting = rng() % 5 ? nullptr : &allocator;
      model.refuse_punch = rng() % 20 == 0;
      switch (rng() % 6) {
        case 0:
        case 1: {
          uint64_t n = (1 + rng() % (rng() % 4 ? 20 : 120)) * kPage;
          if (auto at = allocator.allocate(n)) {
            CHECK(*at % kPage == 0);
            take(*at, n);
            live.push_back({*at, n});
          }
          break;
        }
        case 2:
        case 3:
          if (!live.empty()) {
            size_t i = rng() % live.size();
            // Part of it at times, as a shrinking block does.
            uint64_t keep = rng() % 3 ? 0 : rng() % (live[i].nbytes / kPage) * kPage;
            allocator.free(live[i].offset + keep, live[i].nbytes - keep);
            for (uint64_t p = keep; p < live[i].nbytes; p += kPage)
              model.pages[(live[i].offset + p) / kPage] = kWarm;
            live[i].nbytes = keep;
            if (!keep) live[i] = live.back(), live.pop_back();
          }
          break;
        case 4:
          if (!live.empty()) {
            auto& r = live[rng() % live.size()];
            uint64_t n = r.nbytes + (1 + rng() % 20) * kPage;
            if (allocator.grow(r.offset, r.nbytes, n)) {
              take(r.offset + r.nbytes, n - r.nbytes);
              r.nbytes = n;
            }
          }
          break;
        case 5:
          if (rng() % 4 == 0) allocator.trim();
      }
      settle();
      CHECK(model.committed <= model.limit);
    }
    for (auto& r : live) {
      allocator.free(r.offset, r.nbytes);
      for (uint64_t p = 0; p < r.nbytes; p += kPage) model.pages[(r.offset + p) / kPage] = kWarm;
    }
    model.refuse_punch = false;
    allocator.trim();
    settle();
    CHECK(model.committed == 0);
  }
  printf("%u\n", seeds * steps);
}
