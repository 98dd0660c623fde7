#include <mutex>
#include <set>
#include <thread>

#include <ATen/Parallel.h>

#include <gtest/gtest.h>

// Without -fopenmp at::parallel_for in our own files compiles to a serial loop, in silence.
TEST(Parallel, ParallelForUsesTwoThreads) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer's build has no OpenMP on purpose";
#endif
  if (at::get_num_threads() < 2) GTEST_SKIP() << "SKIPPED, NOTHING WAS TESTED: one core only";
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(threads.size(), 2);
}
