#include "halfstep/train/loop/evaluate.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/train/data/to_device.h"

#include <memory>
#include <utility>
#include <vector>

#include <torch/types.h>

namespace halfstep::train {

namespace {
bool is_classification(const torch::Tensor& output, const torch::Tensor& target) {
  return output.dim() == 2 && target.dim() == 1 && target.scalar_type() == torch::kLong;
}

class EvaluationMode {
 public:
  explicit EvaluationMode(Model& model) : model_(model), was_training_(model.is_training()) {
    for (auto& module : model.modules(/*include_self=*/false))
      below_.emplace_back(module, module->is_training());
    model.eval();
  }
  ~EvaluationMode() {
    // From the top down, because train() sets what lies below, too.
    model_.train(was_training_);
    for (auto& [module, was_training] : below_) module->train(was_training);
  }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  Model& model_;
  bool was_training_;
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> below_;
};
}  // namespace

std::optional<Evaluation> evaluate(Model& model, const Loss& loss, Loader& loader,
                                   c10::Device device, const AmpSettings& amp, Evaluator& evaluator,
                                   const EvaluateOptions& options) {
  const EvaluationMode mode(model);
  const torch::NoGradGuard no_grad;
  const HalfRehearsal rehearsal(amp.rehearses());
  auto loss_sum = torch::zeros({}, torch::dtype(torch::kDouble).device(device));
  auto correct = torch::zeros({}, torch::dtype(torch::kLong).device(device));
  bool classification = evaluator.empty();
  int64_t examples = 0;
  loader.set_epoch(0);
  for (int64_t number = 0; number < loader.num_batches(); ++number) {
    if (options.stop && options.stop()) {
      evaluator.compute();  // of no use, but not to be found by the next one
      return std::nullopt;
    }
    const auto batch = loader.batch(number);
    if (options.before_batch) options.before_batch(number, batch);
    {
      const auto [data, target] = to_device(batch, device);
      const Autocast autocast(
          AutocastOptions(device.type()).enabled(amp.enabled).dtype(amp.dtype).policy(amp.policy));
      const auto output = model.forward(data);
      const int64_t count = target.size(0);
      loss_sum += loss(output, target).to(torch::kDouble) * count;
      classification = classification && is_classification(output, target);
      if (classification) correct += (output.argmax(1) == target).sum();
      evaluator.process(output, target);
      examples += count;
    }
    if (options.after_batch) options.after_batch(number, batch);
  }
  Evaluation result;
  result.loss = loss_sum.item<double>() / static_cast<double>(examples);
  result.metrics = evaluator.compute();
  if (classification) {
    result.accuracy = static_cast<double>(correct.item<int64_t>()) / static_cast<double>(examples);
    result.metrics.add("accuracy", *result.accuracy);
  }
  if (!result.metrics.find("loss")) result.metrics.add("loss", result.loss);
  return result;
}

}  // namespace halfstep::train
