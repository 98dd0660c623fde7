// libFuzzer target of precision plans: any text must be taken or refused with a UsageError, and
// what was taken must load back equal.
#include "halfstep/core/error.h"
#include "halfstep/graph/plan/precision_plan.h"

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using halfstep::PrecisionPlan;
  const std::string text(reinterpret_cast<const char*>(data), size);
  PrecisionPlan plan;
  try {
    plan = PrecisionPlan::parse(text);
  } catch (const halfstep::UsageError&) {
    return 0;
  }
  const std::string once = plan.to_string();
  try {
    if (PrecisionPlan::parse(once) == plan) return 0;
  } catch (const halfstep::UsageError& error) {
    std::cerr << error.what() << '\n';
  }
  std::cerr << text << "\ndoes not load back equal:\n" << once;
  std::abort();
}
