#pragma once
#include "halfstep/dist/launch_environment.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>

namespace halfstep::detail {

/// From now on a process that a RankWatch ends writes its message to this descriptor, too: the
/// console of a program that has sent its standard error into a file. -1: to none. Any thread.
void also_write_last_words_to(int descriptor);

/// Knows which rank of a job failed first, and why: what an exchange that breaks off can't say.
///
/// A thread of each rank writes a sign of life into the store twice a second; rank 0 looks at all
/// of them, and all look at rank 0's. A rank that fails leaves its error there. All ranks learn of
/// the first failure within a second, and a rank that does not end of itself three seconds later
/// (because it waits in an exchange for one that is gone) is ended with that message on standard
/// error, by a second thread, which never waits for the store.
class RankWatch {
 public:
  struct Failure {
    int rank = 0;  ///< -1: nobody in particular
    std::string text;
  };

  /// Starts the threads once all ranks have signs. `lost_after`: for how long a rank may give none.
  RankWatch(const dist::LaunchEnvironment& launch, std::chrono::milliseconds lost_after);
  /// Leaves the job. Rank 0, which holds the store, waits until the others have left or are lost.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

  /// This rank begins another exchange: the number tells who is behind.
  void count_exchange();

  /// Leaves the error of a rank for all to see, unless there is one already; the caller then ends
  /// of itself.
  void report(const Failure& failure);

  /// Why an exchange has broken off: waits up to four seconds for the failure behind it to be
  /// known, else tells what the signs of life tell. The caller then ends of itself.
  Failure look_closer();

 private:
  class State;  // lives as long as a thread that waits for a store that never answers

  std::shared_ptr<State> state_;
  std::thread talk_;
  std::thread guard_;
};

}  // namespace halfstep::detail
