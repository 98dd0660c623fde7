#include "tests/scaling/thread_ranks.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include <ATen/ops/maximum.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace halfstep::testing {

namespace {

/// Where the ranks meet: the last to come reduces, all leave with the result.
class Meeting {
 public:
  explicit Meeting(int ranks) : ranks_(ranks) {}

  void largest(at::Tensor& tensor) {
    std::unique_lock lock(mutex_);
    if (!failure_.empty()) throw std::runtime_error(failure_);
    sum_ = arrived_ == 0 ? tensor.clone() : at::maximum(sum_, tensor);
    ++calls_;
    const int64_t round = round_;
    if (++arrived_ == ranks_) {
      result_ = sum_;
      arrived_ = 0;
      ++round_;
      all_here_.notify_all();
    } else if (!all_here_.wait_for(lock, std::chrono::seconds(20),
                                   [&] { return round_ != round || !failure_.empty(); })) {
      throw std::runtime_error("a rank waited for the others in vain");
    }
    if (round_ == round) throw std::runtime_error(failure_);
    tensor.copy_(result_);
  }

  /// A rank ended early: those that wait for it end too.
  void fail(const std::string& why) {
    const std::lock_guard lock(mutex_);
    failure_ = why;
    all_here_.notify_all();
  }

  int calls() const { return calls_; }

 private:
  const int ranks_;
  int arrived_ = 0, calls_ = 0;
  int64_t round_ = 0;
  at::Tensor sum_, result_;
  std::string failure_;
  std::mutex mutex_;
  std::condition_variable all_here_;
};

class Done : public c10d::Work {
 public:
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
};

class MemoryBackend : public c10d::Backend {
 public:
  MemoryBackend(Meeting& meeting, int rank, int size) : Backend(rank, size), meeting_(meeting) {}
  const std::string getBackendName() const override { return "memory"; }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    TORCH_CHECK(options.reduceOp == c10d::ReduceOp::MAX && tensors.size() == 1);
    meeting_.largest(tensors[0]);
    return c10::make_intrusive<Done>();
  }

 private:
  Meeting& meeting_;
};

int last_run = 0;

}  // namespace

void run_ranks(
    int count,
    const std::function<void(int rank, const c10::intrusive_ptr<c10d::ProcessGroup>&)>& rank) {
  Meeting meeting(count);
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  for (int r = 0; r < count; ++r) {
    threads.emplace_back([&, r] {
      try {
        const auto group = c10::make_intrusive<c10d::ProcessGroup>(r, count);
        const auto backend = c10::make_intrusive<MemoryBackend>(meeting, r, count);
        group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, backend);
        group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
        rank(r, group);
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
        meeting.fail(error.what());
      }
    });
  }
  for (auto& thread : threads) thread.join();
  last_run = meeting.calls();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

int allreduces_of_last_run() {
  return last_run;
}

}  // namespace halfstep::testing
