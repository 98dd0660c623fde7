#include "halfstep/dist/rank_watch.h"

#include "halfstep/dist/store.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <vector>

#include <c10/util/StringUtil.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <unistd.h>

namespace halfstep::detail {

namespace {

using Clock = std::chrono::steady_clock;
using Failure = RankWatch::Failure;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kInterval(500);
// Once an exchange has broken off somewhere, silence means more.
constexpr milliseconds kLostWhenSuspected = 5 * kInterval;
constexpr seconds kGrace(3);

constexpr const char* kFailure = "halfstep/failure";
constexpr const char* kSuspicion = "halfstep/suspicion";
constexpr const char* kLeft = "left";

std::string sign_key(int rank) {
  return c10::str("halfstep/alive/", rank);
}

// Of the ranks from `begin` to before `end`.
std::vector<std::string> sign_keys(int begin, int end) {
  std::vector<std::string> keys;
  keys.reserve(static_cast<size_t>(end - begin));
  for (int rank = begin; rank < end; ++rank) keys.push_back(sign_key(rank));
  return keys;
}

std::string to_text(const std::vector<uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

std::string pack(const Failure& failure) {
  return c10::str(failure.rank, "\n", failure.text);
}

Failure unpack(const std::string& text) {
  const auto end = text.find('\n');
  return {std::atoi(text.c_str()), end == text.npos ? "" : text.substr(end + 1)};
}

std::atomic<int> second_error_stream = -1;

Failure silent_store() {
  return {0, "it does not answer any more (killed or stopped?)"};
}

// The main thread waits for something that will not come, so nobody would unwind.
[[noreturn]] void end_process(int rank, const Failure& failure) {
  const auto message =
      c10::str("error: [ProcessGroup] all ranks must go on together, but rank ", failure.rank,
               " failed: ", failure.text, "; rank ", rank, " is ended\n");
  for (const int stream : {STDERR_FILENO, second_error_stream.load()})
    if (stream >= 0) [[maybe_unused]]
      const auto written = ::write(stream, message.data(), message.size());
  std::_Exit(1);
}

}  // namespace

void also_write_last_words_to(int descriptor) {
  second_error_stream = descriptor;
}

class RankWatch::State {
 public:
  State(const dist::LaunchEnvironment& launch, milliseconds lost_after)
      : launch_(launch),
        lost_after_(lost_after),
        store_(second_connection(launch, lost_after + 10 * kInterval)),
        signs_(static_cast<size_t>(launch.world_size)) {
    beat();
    store_->wait(sign_keys(0, launch_.world_size));
    answered_ = compared_ = Clock::now();
    for (auto& sign : signs_) sign.changed = answered_;
  }

  void count_exchange() { ++exchanges_; }
  void talk();
  void guard();
  void report(const Failure& failure);
  Failure look_closer();
  /// Returns whether talk() has ended.
  bool leave();

 private:
  struct Sign {
    std::string text;
    Clock::time_point changed;
  };

  // Of talk(), which alone asks the store: a request to a stopped one never returns.
  void exchange_news();
  void beat();
  void compare();
  void tell(const Failure& failure);
  Failure who_is_behind();

  void note(const Failure& failure);

  const dist::LaunchEnvironment launch_;
  const milliseconds lost_after_;
  const c10::intrusive_ptr<c10d::Store> store_;
  std::atomic<uint64_t> exchanges_ = 0;
  uint64_t beats_ = 0;
  std::vector<Sign> signs_;  // by rank; of those that this one looks at
  Clock::time_point compared_;
  bool told_suspicion_ = false;

  std::mutex mutex_;  // of all that follows
  std::condition_variable changed_;
  std::optional<Failure> failure_;
  Clock::time_point failed_at_;
  Clock::time_point answered_;
  std::optional<Failure> to_tell_;
  bool suspects_ = false;
  bool asks_for_signs_ = false;
  std::optional<Failure> behind_;
  bool knows_ = false;  // the calling thread has learnt of a failure
  bool leaving_ = false;
  bool all_left_ = false;
  bool ended_ = false;
};

void RankWatch::State::talk() {
  std::unique_lock lock(mutex_);
  bool answers = true;
  while (!leaving_) {
    lock.unlock();
    try {
      if (answers) exchange_news();
    } catch (const std::exception&) {
      answers = false;
      note(silent_store());
    }
    lock.lock();
    changed_.notify_all();
    changed_.wait_for(lock, kInterval, [this] {
      return leaving_ || to_tell_ || asks_for_signs_ || (suspects_ && !told_suspicion_);
    });
    if (!answers) {
      to_tell_.reset();
      asks_for_signs_ = false;
      told_suspicion_ = true;
    }
  }
  lock.unlock();
  try {
    if (answers) store_->set(sign_key(launch_.rank), kLeft);
  } catch (const std::exception&) {
    // Nobody is there to know.
  }
  lock.lock();
  ended_ = true;
  changed_.notify_all();
}

void RankWatch::State::exchange_news() {
  std::optional<Failure> to_tell;
  bool asks = false;
  bool suspects = false;
  {
    const std::lock_guard lock(mutex_);
    to_tell.swap(to_tell_);
    std::swap(asks, asks_for_signs_);
    suspects = suspects_;
  }
  if (to_tell) tell(*to_tell);
  beat();
  if (suspects && !told_suspicion_) store_->set(kSuspicion, "yes");
  told_suspicion_ = suspects;
  compare();
  if (store_->check({kFailure})) note(unpack(to_text(store_->get(kFailure))));
  std::optional<Failure> behind;
  if (asks) behind = who_is_behind();
  const std::lock_guard lock(mutex_);
  if (behind) behind_ = behind;
  answered_ = Clock::now();
}

void RankWatch::State::beat() {
  store_->set(sign_key(launch_.rank), c10::str(++beats_, " ", exchanges_.load()));
}

/// Has another rank not changed its sign for too long? Rank 0 looks at all, all look at rank 0: so
/// requests grow with the ranks, not with their square.
void RankWatch::State::compare() {
  const auto now = Clock::now();
  // After a sleep of its own it has seen nobody.
  const bool slept = now - compared_ > 4 * kInterval;
  compared_ = now;
  const bool is_first = launch_.rank == 0;
  const int begin = is_first ? 1 : 0;
  const int end = is_first ? launch_.world_size : 1;
  const auto texts = store_->multiGet(sign_keys(begin, end));
  const auto limit = store_->check({kSuspicion}) ? kLostWhenSuspected : lost_after_;
  int failed = -1;
  {
    const std::lock_guard lock(mutex_);
    if (failure_) failed = failure_->rank;
  }
  bool all_left = true;
  for (int rank = begin; rank < end; ++rank) {
    auto& sign = signs_[static_cast<size_t>(rank)];
    auto text = to_text(texts[static_cast<size_t>(rank - begin)]);
    const bool left = text == kLeft;
    all_left = all_left && (left || rank == failed);
    if (slept || left || text != sign.text) {
      sign = {std::move(text), now};
    } else if (now - sign.changed > limit) {
      const auto silence = std::chrono::duration_cast<seconds>(now - sign.changed).count();
      tell({rank, c10::str("it gives no sign of life for ", silence, " s (killed or stopped?)")});
    }
  }
  const std::lock_guard lock(mutex_);
  all_left_ = all_left;
}

/// The first one counts, whoever tells it.
void RankWatch::State::tell(const Failure& failure) {
  note(unpack(store_->compareSet(kFailure, "", pack(failure))));
}

Failure RankWatch::State::who_is_behind() {
  Failure behind{-1, "all ranks are alive, and none is behind the others"};
  uint64_t fewest = 0;
  uint64_t most = 0;
  for (int rank = 0; rank < launch_.world_size; ++rank) {
    const auto sign = to_text(store_->get(sign_key(rank)));
    if (sign == kLeft) return {rank, "it has ended, without an error, before the others"};
    const uint64_t count = std::stoull(sign.substr(sign.find(' ') + 1));
    if (rank == 0 || count < fewest) behind.rank = rank;
    fewest = rank == 0 ? count : std::min(fewest, count);
    most = std::max(most, count);
  }
  if (fewest == most) return {-1, behind.text};
  behind.text =
      c10::str("it is alive, but stands at exchange ", fewest, " where others are at ", most);
  return behind;
}

void RankWatch::State::note(const Failure& failure) {
  const std::lock_guard lock(mutex_);
  if (failure_) return;
  failure_ = failure;
  failed_at_ = Clock::now();
  changed_.notify_all();
}

void RankWatch::State::guard() {
  std::unique_lock lock(mutex_);
  while (!leaving_) {
    const auto now = Clock::now();
    if (now - answered_ > lost_after_ + kInterval) {
      lock.unlock();
      note(silent_store());
      lock.lock();
    }
    // One that knows is on its way out, and has its own message to print.
    if (failure_ && now > failed_at_ + (knows_ ? 3 * kGrace : kGrace))
      end_process(launch_.rank, *failure_);
    changed_.wait_for(lock, kInterval / 2, [this] { return leaving_; });
  }
}

void RankWatch::State::report(const Failure& failure) {
  std::unique_lock lock(mutex_);
  knows_ = true;
  to_tell_ = failure;
  changed_.notify_all();
  changed_.wait_for(lock, 4 * kInterval, [this] { return failure_.has_value(); });
}

Failure RankWatch::State::look_closer() {
  std::unique_lock lock(mutex_);
  knows_ = true;
  suspects_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, kLostWhenSuspected + 3 * kInterval,
                    [this] { return failure_.has_value(); });
  if (failure_) return *failure_;
  asks_for_signs_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, 4 * kInterval, [this] { return behind_.has_value(); });
  return behind_ ? *behind_ : silent_store();
}

bool RankWatch::State::leave() {
  std::unique_lock lock(mutex_);
  if (launch_.rank == 0) {
    changed_.wait(lock, [this] { return all_left_ || failure_; });
    if (!all_left_) changed_.wait_until(lock, failed_at_ + kGrace, [this] { return all_left_; });
  }
  leaving_ = true;
  changed_.notify_all();
  return changed_.wait_for(lock, 4 * kInterval, [this] { return ended_; });
}

RankWatch::RankWatch(const dist::LaunchEnvironment& launch, milliseconds lost_after)
    : state_(std::make_shared<State>(launch, lost_after)),
      talk_([state = state_] { state->talk(); }),
      guard_([state = state_] { state->guard(); }) {}

RankWatch::~RankWatch() {
  const bool ended = state_->leave();
  guard_.join();
  if (ended)
    talk_.join();
  else
    talk_.detach();
}

void RankWatch::count_exchange() {
  state_->count_exchange();
}

void RankWatch::report(const Failure& failure) {
  state_->report(failure);
}

RankWatch::Failure RankWatch::look_closer() {
  return state_->look_closer();
}

}  // namespace halfstep::detail
