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
  figures_.assign(trainer.parts().wrappers.size(), {});
  for (auto& each : figures_) each.step = trainer.progress().step;
}

void GradientStatisticsHook::after_backward(Trainer& trainer) {
  const auto& wrappers = trainer.parts().wrappers;
  const auto& parts = trainer.active_wrapper();
  auto& figures = figures_.at(static_cast<size_t>(&parts - wrappers.data()));
  const auto step = trainer.progress().step + 1;
  if (step != figures.step && step / interval_ == figures.step / interval_) return;
  figures = {};
  figures.step = step;
  std::vector<at::Tensor> rows;
  size_t index = 0;
  for (const auto& group : parts.wrapper->param_groups())
    for (const auto& parameter : group.params()) {
      const auto& name = parts.parameter_names[index++];
      auto gradient = parameter.grad();
      if (!gradient.defined()) continue;
      if (gradient.is_sparse()) gradient = gradient.coalesce().values();
      const auto wide = gradient.to(at::kDouble);
      rows.push_back(at::stack({wide.square().sum(), (wide == 0).sum().to(at::kDouble),
                                at::isfinite(wide).logical_not().sum().to(at::kDouble)}));
      figures.names.push_back(name);
      figures.elements.push_back(gradient.numel());
    }
  if (!rows.empty()) figures.counts = at::stack(rows);
  if (trainer.scaler().is_enabled()) figures.scale = trainer.scaler().get_scale();
}

void GradientStatisticsHook::after_train_iter(Trainer& trainer, const Batch&) {
  nlohmann::ordered_json line{{"event", "gradients"}, {"step", trainer.progress().step}};
  auto gradients = nlohmann::ordered_json::object();
  for (size_t i = 0; i < figures_.size(); ++i) {
    auto& [names, elements, counts, scale, step] = figures_[i];
    if (!counts.defined()) continue;
    line[trainer.parts().wrappers[i].named("loss_scale")] = scale;
    const auto on_cpu = std::exchange(counts, {}).to(at::kCPU);
    const auto* row = on_cpu.const_data_ptr<double>();
    std::vector<std::string> order;
    std::map<std::string, Sum> sums;
    for (size_t k = 0; k < names.size(); ++k, row += 3) {
      const auto name = by_module_ ? module_of(names[k]) : names[k];
      const auto [place, is_new] = sums.try_emplace(name);
      if (is_new) order.push_back(name);
      auto& sum = place->second;
      sum.squares += row[0];
      sum.zeros += row[1];
      sum.nonfinite += row[2];
      sum.elements += elements[k];
    }
    for (const auto& name : order) gradients[name] = to_json(sums.at(name), scale);
  }
  if (gradients.empty()) return;
  line["gradients"] = std::move(gradients);
  log_->write(line);
}

}  // namespace halfstep::train
