#pragma once
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

namespace halfstep::detail {

/// A small tensor's values on the host without waiting for its device: a copy to pinned memory and
/// an event behind it. A tensor on the CPU is there at once.
class LateRead {
 public:
  LateRead() = default;
  explicit LateRead(const at::Tensor& tensor);

  /// True where a read was started and its copy has arrived. Never waits.
  bool ready() const;

  /// True where a read was started, arrived or not.
  bool started() const { return copy_.defined(); }

  /// Waits for the copy, where it has not arrived.
  void wait();

  /// The values, on the CPU. Only where `ready()`.
  const at::Tensor& value() const { return copy_; }

 private:
  at::Tensor copy_;
  std::optional<c10::Event> arrived_;
};

}  // namespace halfstep::detail
