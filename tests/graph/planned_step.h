#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/graph/step_test.h"
#include <gtest/gtest.h>

namespace halfstep::testing {

/// How many lines of a program's forward have `text`.
inline int count(const std::string& program, std::string_view text) {
  int found = 0;
  const auto forward = program.substr(0, program.find("\nbackward"));
  for (auto at = forward.find(text); at != std::string::npos; at = forward.find(text, at + 1))
    ++found;
  return found;
}

/// The line of a plan's node or a program's call that has `text`.
inline std::string line_with(const std::string& all, const std::string& text) {
  const auto at = all.find(text);
  if (at == std::string::npos) return "no line has " + text;
  const auto start = all.rfind('\n', at) + 1;
  return all.substr(start, all.find('\n', at) - start);
}

/// Graphs that run by a precision plan, in bfloat16.
class PlanTest : public StepTest {
 protected:
  using Tensor = torch::Tensor;

  /// A planned step that uses these tensors, in checked mode.
  static std::unique_ptr<Step> planned(
      Step::Function function, const std::vector<std::pair<std::string, Tensor>>& tensors = {}) {
    auto step = std::make_unique<Step>(std::move(function));
    for (const auto& [name, tensor] : tensors) step->add_tensor(name, tensor);
    step->config().enable_amp(true, torch::kBFloat16).plan_precision().check_replays();
    return step;
  }
  /// What a replay gives.
  Tensor replayed(Step& step, const Tensor& x) const {
    warm_up(step, x);
    auto y = step(x);
    EXPECT_EQ(step.last_reason(), "");
    return y;
  }
  static Tensor low(const Tensor& x) { return x.to(torch::kBFloat16); }
};

}  // namespace halfstep::testing
