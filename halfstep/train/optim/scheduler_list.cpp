#include "halfstep/train/optim/scheduler_list.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/momentum.h"
#include "halfstep/train/registry/registry.h"

#include <algorithm>
#include <string>
#include <utility>

#include <c10/util/ArrayRef.h>

namespace halfstep::train {

namespace {

// OneCycleLR is one: it goes to rates of its own.
bool ignores_the_base(const optim::Schedule& schedule) {
  return schedule.rate(1, 0) == schedule.rate(2, 0) && schedule.rate(1, 0) != 0;
}

/// The key in which a schedule has its length, and what MMEngine takes for it; none for others.
struct LengthKey {
  const char* type;
  const char* key;
  int64_t less;  // a straight line over n steps has n - 1 parts
};
constexpr LengthKey length_keys[] = {{"LinearLR", "total_iters", 1},
                                     {"ConstantLR", "total_iters", 1},
                                     {"PolynomialLR", "total_iters", 1},
                                     {"PolyLR", "total_iters", 1},
                                     {"CosineAnnealingLR", "T_max", 0}};

void fill_length(Config& entry, int64_t length) {
  const auto type = entry.get<std::string>("type");
  for (const auto& each : length_keys)
    if (type == each.type && !entry.has(each.key))
      entry.set(each.key, std::to_string(std::max<int64_t>(length - each.less, 1)));
}

ScheduleEntry read_plateau(Config& entry, int64_t begin, int64_t end) {
  if (!entry.get<bool>("by_epoch", true))
    entry.fail("by_epoch", "must be true, or left out, for a schedule that counts validations");
  return {[](double base, int64_t) { return base; }, true, begin, end, Plateau(entry)};
}

}  // namespace

SchedulerList::SchedulerList(torch::optim::Optimizer& optimizer, std::vector<ScheduleEntry> entries,
                             torch::optim::OptimizerOptions* also)
    : optimizer_(&optimizer),
      also_(also),
      entries_(std::move(entries)),
      counts_(entries_.size(), 0) {
  for (const auto& entry : entries_) {
    HALFSTEP_CHECK_USAGE(entry.begin >= 0 && entry.end > entry.begin, "SchedulerList",
                         "end must be larger than begin, and begin at least 0, but got begin ",
                         entry.begin, " and end ", entry.end);
    const bool alone = entries_.size() == 1 && entry.acts_throughout();
    HALFSTEP_CHECK_USAGE(
        alone || (!entry.schedule.has_momentum() && !ignores_the_base(entry.schedule)),
        "SchedulerList",
        "a schedule that sets the momentum, or rates of its own as OneCycleLR does, must be alone "
        "and without begin and end, but there are ",
        entries_.size(), " schedules; take another one");
  }
  for (const auto* each : options()) base_rates_.push_back(each->get_lr());
  for (size_t i = 0; i < entries_.size(); ++i) apply(i);
}

/// Whose rates are set: the groups', and then `also`'s.
std::vector<torch::optim::OptimizerOptions*> SchedulerList::options() const {
  std::vector<torch::optim::OptimizerOptions*> all;
  for (auto& group : optimizer_->param_groups()) all.push_back(&group.options());
  if (also_ != nullptr) all.push_back(also_);
  return all;
}

void SchedulerList::step(bool by_epoch) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].by_epoch != by_epoch || entries_[i].plateau) continue;
    ++counts_[i];
    apply(i);
  }
}

void SchedulerList::step_validation(const Metrics& metrics) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    auto& entry = entries_[i];
    if (!entry.plateau) continue;
    const auto count = counts_[i]++;
    if (count < entry.begin || count >= entry.end || !entry.plateau->update(metrics)) continue;
    for (auto* each : options()) each->set_lr(entry.plateau->reduced(each->get_lr()));
  }
}

nlohmann::json SchedulerList::plateaus() const {
  auto states = nlohmann::json::array();
  bool any = false;
  for (const auto& entry : entries_) {
    any = any || entry.plateau;
    states.push_back(entry.plateau ? entry.plateau->state() : nlohmann::json());
  }
  return any ? states : nlohmann::json::array();
}

void SchedulerList::load_plateaus(const nlohmann::json& states) {
  for (size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].plateau) entries_[i].plateau->load_state(states.at(i));
}

void SchedulerList::apply(size_t index) {
  const auto& [schedule, by_epoch, begin, end, plateau] = entries_[index];
  const int64_t count = counts_[index];
  if (plateau || count < begin || count >= end) return;
  const bool closed = entries_.size() == 1 && entries_[index].acts_throughout();
  const auto momentum = schedule.momentum(count);
  const auto all = options();
  for (size_t i = 0; i < all.size(); ++i) {
    const double base = base_rates_.at(i);
    all[i]->set_lr(closed ? schedule.rate(base, count)
                          : schedule.next(all[i]->get_lr(), base, count - begin));
    if (momentum) optim::set_momentum(*all[i], *momentum);
  }
}

void SchedulerList::set_counts(const std::vector<int64_t>& counts) {
  HALFSTEP_CHECK_ENVIRONMENT(
      counts.size() == counts_.size() &&
          std::none_of(counts.begin(), counts.end(), [](int64_t count) { return count < 0; }),
      "SchedulerList::set_counts", "there must be a count of at least 0 for each of ",
      counts_.size(), " schedules, but got ", c10::IntArrayRef(counts),
      "; take another checkpoint");
  counts_ = counts;
  if (entries_.size() == 1 && entries_[0].acts_throughout()) apply(0);
}

std::vector<ScheduleEntry> read_schedulers(Config& config, bool run_by_epoch,
                                           const std::string& key) {
  auto children = config.children(key);
  std::vector<ScheduleEntry> result;
  for (auto& entry : children) {
    const bool by_epoch = entry.get<bool>("by_epoch", true);
    const auto begin = entry.get<int64_t>("begin", 0);
    if (begin < 0) entry.fail("begin", "must be at least 0");
    auto end = ScheduleEntry::no_end;
    if (entry.has("end")) {
      end = entry.get<int64_t>("end");
      if (end <= begin) entry.fail("end", "must be larger than begin");
      fill_length(entry, end - begin);
    }
    if (entry.get<std::string>("type") == "ReduceOnPlateauLR") {
      result.push_back(read_plateau(entry, begin, end));
      continue;
    }
    if (by_epoch && !run_by_epoch)
      entry.fail("by_epoch",
                 "must be false where train_cfg counts iterations (a run by iterations has no "
                 "epochs to count)");
    auto schedule = schedulers().build(entry);
    ScheduleEntry read{std::move(schedule), by_epoch, begin, end};
    const bool alone = children.size() == 1 && read.acts_throughout();
    if (!alone && (read.schedule.has_momentum() || ignores_the_base(read.schedule)))
      entry.fail("type",
                 "must be another one among several, or with begin and end: this one sets rates, "
                 "or the momentum, whatever the others do");
    result.push_back(std::move(read));
  }
  return result;
}

}  // namespace halfstep::train
