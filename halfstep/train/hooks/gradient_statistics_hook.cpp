#include "halfstep/train/hooks/gradient_statistics_hook.h"

#include "halfstep/train/loop/trainer.h"

#include <cmath>
#include <map>
#include <utility>

#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>

namespace halfstep::train {

namespace {

struct Sum {
  double squares = 0;
  double zeros = 0;
  double nonfinite = 0;
  int64_t elements = 0;
};

nlohmann::ordered_json to_json(const Sum& sum, double scale) {
  const auto elements = static_cast<double>(sum.elements);
  // NaN and inf, which JSON has not, are null.
  return {{"norm", std::sqrt(sum.squares) / scale},
          {"zeros", sum.zeros / elements},
          {"nonfinite", sum.nonfinite / elements}};
}

std::string module_of(const std::string& parameter) {
  const auto dot = parameter.rfind('.');
  return dot == parameter.npos ? "" : parameter.substr(0, dot);
}

}  // namespace

GradientStatisticsHook::GradientStatisticsHook(Config& config)
    : interval_(config.get<int64_t>("interval", 100)) {
  if (interval_ < 1) config.fail("interval", "must be at least 1 step");
  const auto by = config.get<std::string>("by", "parameter");
  if (by != "parameter" && by != "module") config.fail("by", "must be parameter or module");
  by_module_ = by == "module";
}

void GradientStatisticsHook::before_run(Trainer& trainer) {
  log_.emplace(trainer.work_dir().log_file());
}

void GradientStatisticsHook::after_backward(Trainer& trainer) {
  if ((trainer.progress().step + 1) % interval_ != 0) return;
  names_.clear();
  elements_.clear();
  std::vector<at::Tensor> rows;
  for (const auto& item : trainer.parts().model->named_parameters()) {
    auto gradient = item.value().grad();
    if (!gradient.defined()) continue;
    if (gradient.is_sparse()) gradient = gradient.coalesce().values();
    const auto wide = gradient.to(at::kDouble);
    rows.push_back(at::stack({wide.square().sum(), (wide == 0).sum().to(at::kDouble),
                              at::isfinite(wide).logical_not().sum().to(at::kDouble)}));
    names_.push_back(item.key());
    elements_.push_back(gradient.numel());
  }
  counts_ = rows.empty() ? at::Tensor() : at::stack(rows);
  scale_ = trainer.scaler().is_enabled() ? trainer.scaler().get_scale() : 1.0;
}

void GradientStatisticsHook::after_train_iter(Trainer& trainer, const Batch&) {
  if (!counts_.defined()) return;
  const auto counts = counts_.to(at::kCPU);
  counts_.reset();
  const auto* row = counts.const_data_ptr<double>();
  std::vector<std::string> order;
  std::map<std::string, Sum> sums;
  for (size_t i = 0; i < names_.size(); ++i, row += 3) {
    const auto name = by_module_ ? module_of(names_[i]) : names_[i];
    const auto [place, is_new] = sums.try_emplace(name);
    if (is_new) order.push_back(name);
    auto& sum = place->second;
    sum.squares += row[0];
    sum.zeros += row[1];
    sum.nonfinite += row[2];
    sum.elements += elements_[i];
  }
  auto gradients = nlohmann::ordered_json::object();
  for (const auto& name : order) gradients[name] = to_json(sums.at(name), scale_);
  log_->write({{"event", "gradients"},
               {"step", trainer.progress().step},
               {"loss_scale", scale_},
               {"gradients", std::move(gradients)}});
}

}  // namespace halfstep::train
