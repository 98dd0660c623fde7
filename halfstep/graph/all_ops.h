#pragma once
#include <functional>
#include <mutex>
#include <unordered_set>

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/operator_name.h>
#include <c10/core/DispatchKey.h>

namespace halfstep::detail {

/// A kernel for each op of the process on one dispatch key, which no thread uses but those that
/// include it. Make one for each key, with static life.
class KernelsOfAllOps {
 public:
  KernelsOfAllOps(c10::DispatchKey key, std::function<c10::KernelFunction()> make)
      : key_(key), make_(std::move(make)) {}

  /// Registers the kernel, for the life of the process, for ops that have none on the key yet: also
  /// those of libraries loaded since. No other thread may compute meanwhile where there are any,
  /// since the dispatcher's tables are read without a lock.
  void register_missing();

 private:
  c10::DispatchKey key_;
  std::function<c10::KernelFunction()> make_;
  std::mutex mutex_;
  std::unordered_set<c10::OperatorName> seen_;
};

}  // namespace halfstep::detail
