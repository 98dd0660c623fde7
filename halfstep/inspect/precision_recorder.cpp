#include "halfstep/inspect/precision_recorder.h"

#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/policy_region.h"
#include "halfstep/autocast/stock_rules.h"
#include "halfstep/inspect/call_modules.h"
#include "halfstep/inspect/call_values.h"
#include "halfstep/inspect/op_observer.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include <ATen/autocast_mode.h>
#include <torch/nn/module.h>

namespace halfstep::inspect {

namespace detail {

namespace {

/// What one call says of itself when it begins.
struct Inputs {
  std::optional<c10::DeviceType> device_type;  // of the first floating-point tensor
  bool only_double = true;                     // of the floating-point ones on that device
};

Inputs inputs_of(c10::ArrayRef<c10::IValue> values) {
  Inputs inputs;
  for_each_tensor(values, [&](const at::Tensor& tensor) {
    if (!tensor.is_floating_point()) return;
    if (!inputs.device_type) inputs.device_type = tensor.device().type();
    inputs.only_double = inputs.only_double && tensor.scalar_type() == c10::kDouble;
  });
  return inputs;
}

std::string lower_name(c10::DeviceType type) {
  return c10::DeviceTypeName(type, /*lower_case=*/true);
}

}  // namespace

class PrecisionRecording final : public OpRecording {
 public:
  explicit PrecisionRecording(const torch::nn::Module* root) : modules_(root) {
    device_types_.insert({c10::kCPU, &halfstep::detail::stock_rules(c10::kCPU)});
    if (root == nullptr) return;
    for (const auto& parameter : root->parameters()) {
      const auto type = parameter.device().type();
      if (at::autocast::is_autocast_available(type))
        device_types_.insert({type, &halfstep::detail::stock_rules(type)});
    }
  }

  void set_open(bool open) { open_ = open; }
  bool is_open() const override { return open_; }

  void begin(OpFrame& frame, const at::RecordFunction& call) override {
    const auto values = call.inputs();
    const auto& op = op_of(call);
    if (!frame.backward) frame.module = modules_.module_of(frame, values);
    if (op.is_cast) {
      const auto& source = values[frame.op == "copy_" ? 1 : 0];
      const bool counted_already = frame.caller != nullptr && frame.caller->cast_from.has_value();
      if (!counted_already) frame.cast_from = floating_dtype(source);
      return;
    }
    if (op.is_left_out) return;
    const auto inputs = inputs_of(values);
    if (!inputs.device_type) return;
    frame.is_row = frame.caller == nullptr;
    if (frame.backward) return;
    const bool inside = at::autocast::is_autocast_available(*inputs.device_type) &&
                        at::autocast::is_autocast_enabled(*inputs.device_type);
    auto* region = inside ? halfstep::detail::PolicyRegion::current(*inputs.device_type) : nullptr;
    const auto rule = inside ? rule_of(op.name, *inputs.device_type, region) : std::nullopt;
    if (rule) frame.is_row = true;
    if (frame.is_row) note_region(*inputs.device_type, inside, region, rule, inputs.only_double);
  }

  void end(const OpFrame& frame, c10::ScalarType dtype, const at::RecordFunction& call) override {
    const std::lock_guard lock(mutex_);
    auto& pass = frame.backward ? backward_ : forward_;
    if (frame.cast_from && *frame.cast_from != dtype) {
      int64_t bytes = 0;
      for_each_tensor(call.outputs(), [&](const at::Tensor& tensor) {
        bytes += tensor.numel() * static_cast<int64_t>(tensor.element_size());
      });
      auto& cast = pass.cast(frame.module, *frame.cast_from, dtype);
      ++cast.casts;
      cast.bytes += bytes;
    }
    if (frame.is_row) ++pass.op(frame.module, frame.op, dtype).calls;
  }

  PrecisionReport report() const {
    const std::lock_guard lock(mutex_);
    PrecisionReport report;
    report.forward = forward_.rows;
    report.backward = backward_.rows;
    report.regions = regions_;
    for (const auto& policy : policies_) {
      const auto add = [](std::vector<std::string>& to, const std::vector<std::string>& names) {
        for (const auto& name : names) {
          if (std::find(to.begin(), to.end(), name) == to.end()) to.push_back(name);
        }
      };
      add(report.regions.policies, {policy.base()});
      add(report.unmatched_ops, policy.unmatched());
      add(report.unmatched_modules, policy.unmatched_modules());
      report.regions.module_rules = report.regions.module_rules || !policy.module_rules().empty();
    }
    return report;
  }

 private:
  struct KnownOp {
    std::string name;  // as in OpPolicy::table()
    bool is_cast = false;
    bool is_left_out = false;
  };

  struct Rows {
    PrecisionReport::Pass rows;
    std::map<std::tuple<std::string, std::string, c10::ScalarType>, size_t> op_at;
    std::map<std::tuple<std::string, c10::ScalarType, c10::ScalarType>, size_t> cast_at;

    PrecisionReport::Op& op(const std::string& module, const std::string& op,
                            c10::ScalarType dtype) {
      const auto [at, is_new] = op_at.try_emplace({module, op, dtype}, rows.ops.size());
      if (is_new) rows.ops.push_back({module, op, dtype, 0});
      return rows.ops[at->second];
    }
    PrecisionReport::Cast& cast(const std::string& module, c10::ScalarType from,
                                c10::ScalarType to) {
      const auto [at, is_new] = cast_at.try_emplace({module, from, to}, rows.casts.size());
      if (is_new) rows.casts.push_back({module, from, to, 0, 0});
      return rows.casts[at->second];
    }
  };

  const KnownOp& op_of(const at::RecordFunction& call) {
    const c10::OperatorName name(call.name(), call.overload_name());
    const std::lock_guard lock(mutex_);
    auto [found, is_new] = ops_.try_emplace(halfstep::detail::op_name(name));
    auto& op = found->second;
    if (!is_new) return op;
    op.name = found->first;
    op.is_cast = op.name == "_to_copy" || op.name == "copy_";
    const auto schema = c10::Dispatcher::singleton().findSchema(name);
    op.is_left_out = name.name == "aten::to" || name.name == "aten::detach_" ||
                     name.name.ends_with("_like") || (schema && is_view(schema->schema()));
    return op;
  }

  std::optional<CastRule> rule_of(const std::string& op, c10::DeviceType device_type,
                                  halfstep::detail::PolicyRegion* region) const {
    if (region != nullptr) return region->op_policy().rule(op);
    const auto list = device_types_.find(device_type);
    if (list == device_types_.end()) return std::nullopt;
    const auto found = list->second->find(op);
    return found == list->second->end() ? std::nullopt : std::optional(found->second.rule);
  }

  void note_region(c10::DeviceType device_type, bool inside, halfstep::detail::PolicyRegion* region,
                   std::optional<CastRule> rule, bool only_double) {
    const std::lock_guard lock(mutex_);
    ++regions_.calls;
    regions_.device_type = lower_name(device_type);
    if (!inside) {
      for (const auto other : at::autocast::_AUTOCAST_SUPPORTED_DEVICES) {
        if (other == device_type || !at::autocast::is_autocast_enabled(other)) continue;
        ++regions_.inside_another;
        regions_.other_device_type = lower_name(other);
        break;
      }
      return;
    }
    ++regions_.inside;
    if (region != nullptr && policies_seen_.insert(&region->policy()).second)
      policies_.push_back(region->op_policy());
    if (rule != CastRule::lower_precision && rule != CastRule::promote_or_lower) return;
    ++regions_.low_rule;
    if (only_double) ++regions_.low_rule_on_double;
  }

  std::atomic<bool> open_ = true;
  CallModules modules_;
  std::map<c10::DeviceType, const std::map<std::string, halfstep::detail::StockRule>*>
      device_types_;

  mutable std::mutex mutex_;
  std::map<std::string, KnownOp> ops_;
  Rows forward_;
  Rows backward_;
  PrecisionReport::Regions regions_;
  std::set<const halfstep::detail::CompiledPolicy*> policies_seen_;
  std::vector<OpPolicy> policies_;
};

}  // namespace detail

PrecisionRecorder::PrecisionRecorder() : PrecisionRecorder(nullptr) {}

PrecisionRecorder::PrecisionRecorder(const torch::nn::Module& root) : PrecisionRecorder(&root) {}

PrecisionRecorder::PrecisionRecorder(const torch::nn::Module* root)
    : recording_(std::make_shared<detail::PrecisionRecording>(root)),
      guard_(std::make_unique<detail::OpRecordingGuard>(recording_)) {}

PrecisionRecorder::~PrecisionRecorder() {
  recording_->set_open(false);
}

void PrecisionRecorder::pause() {
  recording_->set_open(false);
}

void PrecisionRecorder::resume() {
  recording_->set_open(true);
}

PrecisionReport PrecisionRecorder::report() const {
  return recording_->report();
}

}  // namespace halfstep::inspect
