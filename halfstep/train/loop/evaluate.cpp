#include "halfstep/train/loop/evaluate.h"

#include "halfstep/autocast/autocast.h"

#include <torch/types.h>

namespace halfstep::train {

namespace {
bool is_classification(const torch::Tensor& output, const torch::Tensor& target) {
  return output.dim() == 2 && target.dim() == 1 && target.scalar_type() == torch::kLong;
}
}  // namespace

Evaluation evaluate(Model& model, const Loss& loss, Loader& loader, c10::Device device,
                    const AmpSettings& amp) {
  const bool was_training = model.is_training();
  model.eval();
  const torch::NoGradGuard no_grad;
  auto loss_sum = torch::zeros({}, torch::dtype(torch::kDouble).device(device));
  auto correct = torch::zeros({}, torch::dtype(torch::kLong).device(device));
  bool classification = true;
  int64_t examples = 0;
  loader.set_epoch(0);
  for (int64_t number = 0; number < loader.num_batches(); ++number) {
    auto [data, target] = loader.batch(number);
    data = data.to(device);
    target = target.to(device);
    const Autocast autocast(AutocastOptions(device.type()).enabled(amp.enabled).dtype(amp.dtype));
    const auto output = model.forward(data);
    const int64_t count = target.size(0);
    loss_sum += loss(output, target).to(torch::kDouble) * count;
    classification = classification && is_classification(output, target);
    if (classification) correct += (output.argmax(1) == target).sum();
    examples += count;
  }
  model.train(was_training);
  Evaluation result;
  result.loss = loss_sum.item<double>() / static_cast<double>(examples);
  if (classification)
    result.accuracy = static_cast<double>(correct.item<int64_t>()) / static_cast<double>(examples);
  return result;
}

}  // namespace halfstep::train
