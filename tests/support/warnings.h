#pragma once
#include <string>
#include <vector>

#include <c10/util/Exception.h>

namespace halfstep::testing {

/// Keeps what is written to LibTorch's warnings (TORCH_WARN) while it lives.
class Warnings : public c10::WarningHandler {
 public:
  Warnings() : guard_(this) {}
  void process(const c10::Warning& warning) override { messages.push_back(warning.msg()); }
  std::vector<std::string> messages;

 private:
  c10::WarningUtils::WarningHandlerGuard guard_;
};

}  // namespace halfstep::testing
