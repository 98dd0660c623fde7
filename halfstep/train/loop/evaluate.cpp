#include "halfstep/train/loop/evaluate.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/train/models/evaluation_mode.h"

#include <utility>

#include <torch/types.h>

namespace halfstep::train {

namespace {
bool is_classification(const torch::Tensor& output, const torch::Tensor& target) {
  return output.dim() == 2 && target.dim() == 1 && target.scalar_type() == torch::kLong;
}

/// Output and loss; a Model's output is computed once for both.
std::pair<torch::Tensor, torch::Tensor> assess(BaseModel& model, const Batch& raw,
                                               const Batch& batch, bool testing) {
  if (const auto* simple = dynamic_cast<const Model*>(&model)) {
    const auto output = model.forward(batch.data);
    return {output, simple->loss_of(output, batch.target)};
  }
  const auto losses = model.loss(batch);
  return {testing ? model.test_step(raw) : model.val_step(raw), model.parse_losses(losses).first};
}
}  // namespace

std::optional<Evaluation> evaluate(BaseModel& model, Loader& loader, c10::Device device,
                                   const AmpSettings& amp, Evaluator& evaluator,
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
    if (loader.num_examples(number) == 0) continue;
    const auto raw = loader.batch(number);
    if (options.before_batch) options.before_batch(number, raw);
    {
      const auto batch = model.data_preprocessor(raw, /*training=*/false);
      const Autocast autocast(
          AutocastOptions(device.type()).enabled(amp.enabled).dtype(amp.dtype).policy(amp.policy));
      const auto [output, loss] = assess(model, raw, batch, options.testing);
      const int64_t count = batch.target.size(0);
      loss_sum += loss.to(torch::kDouble) * count;
      classification = classification && is_classification(output, batch.target);
      if (classification) correct += (output.argmax(1) == batch.target).sum();
      evaluator.process(output, batch.target);
      examples += count;
    }
    if (options.after_batch) options.after_batch(number, raw);
  }
  if (options.sum_over_ranks) {
    const auto sum = [&](const auto& tensor) { return options.sum_over_ranks(tensor.cpu()); };
    loss_sum = sum(loss_sum);
    correct = sum(correct);
    examples = sum(torch::scalar_tensor(examples, torch::kLong)).template item<int64_t>();
    // A rank without batches has seen nothing that speaks against it.
    classification =
        sum(torch::scalar_tensor(classification ? 0 : 1, torch::kLong)).template item<int64_t>() ==
        0;
    evaluator.reduce(options.sum_over_ranks);
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
