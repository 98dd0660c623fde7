#include "halfstep/train/optim/iter_based.h"

#include <iterator>
#include <string>
#include <vector>

namespace halfstep::train {

namespace {

constexpr const char* key = "convert_to_iter_based";

/// The key of a schedule, beside begin and end, that counts.
struct Counting {
  const char* type;
  const char* name;
  bool is_list;
  bool is_length;  // taken from begin and end where it is missing
};
constexpr Counting countings[] = {
    {"StepLR", "step_size", false, false},
    {"MultiStepLR", "milestones", true, false},
    {"ExponentialLR", nullptr, false, false},
    {"ConstantLR", "total_iters", false, true},
    {"LinearLR", "total_iters", false, true},
    {"PolynomialLR", "total_iters", false, true},
    {"PolyLR", "total_iters", false, true},
    {"CosineAnnealingLR", "T_max", false, true},
    {"CosineAnnealingWarmRestarts", "T_0", false, false},
    {"CosineRestartLR", "periods", true, false},
    {"OneCycleLR", "total_steps", false, false},
};

class Conversion {
 public:
  Conversion(Config& entry, int64_t batches, int64_t counts)
      : entry_(entry), batches_(batches), counts_(counts) {}

  void run() {
    const auto type = entry_.get<std::string>("type");
    const Counting* counting = nullptr;
    for (const auto& each : countings)
      if (type == each.type) counting = &each;
    if (counting == nullptr)
      entry_.fail(key, "must be left out for " + type +
                           ", of which it is not known what counts epochs; write by_epoch: false "
                           "and numbers of steps");
    if (!entry_.get<bool>("by_epoch", true))
      entry_.fail(key, "must be left out beside by_epoch: false, which counts steps");
    const bool has_end = entry_.has("end");
    if (counting->name != nullptr && (!counting->is_length || entry_.has(counting->name)))
      counting->is_list ? scale_list(counting->name) : scale(counting->name);
    else if (counting->is_length && !has_end)
      entry_.fail("end", "must be given beside " + std::string(key));
    if (entry_.has("begin")) scale("begin");
    if (has_end) scale("end");
    entry_.set("by_epoch", "false", entry_.where(key));
    entry_.remove(key);
  }

 private:
  int64_t steps(int64_t epochs) const { return epochs * batches_ / counts_; }
  void scale(const char* name) {
    entry_.set(name, std::to_string(steps(entry_.get<int64_t>(name))), entry_.where(name));
  }
  void scale_list(const char* name) {
    std::string list;
    for (const auto each : entry_.get<std::vector<int64_t>>(name))
      list += (list.empty() ? "" : ", ") + std::to_string(steps(each));
    entry_.set(name, "[" + list + "]", entry_.where(name));
  }

  Config& entry_;
  int64_t batches_, counts_;
};

}  // namespace

void convert_to_iter_based(Config& config, int64_t batches, int64_t accumulative_counts,
                           bool several_optimizers) {
  const auto convert = [&](Config& holder, const std::string& name) {
    for (auto& entry : holder.children(name)) {
      if (!entry.has(key)) continue;
      if (!entry.get<bool>(key)) continue;
      if (several_optimizers)
        entry.fail(key,
                   "must be left out with several optimizers, whose steps are not the "
                   "iterations; write by_epoch: false and numbers of steps");
      Conversion(entry, batches, accumulative_counts).run();
    }
  };
  constexpr const char* schedules = "param_scheduler";
  if (!config.is_mapping(schedules)) {
    convert(config, schedules);
  } else if (several_optimizers) {
    auto by_name = config.child(schedules);
    for (const auto& name : by_name.keys()) convert(by_name, name);
  }
}

}  // namespace halfstep::train
