#include "halfstep/train/predict/classify.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/error.h"
#include "halfstep/train/models/evaluation_mode.h"

#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/max.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

namespace halfstep::train {
namespace {

class Classifier {
 public:
  Classifier(BaseModel& model, const AmpSettings& amp, std::vector<std::string> names)
      : model_(model), amp_(amp), names_(std::move(names)) {}

  // Fills in what the examples are, all of one size; or gives why the model does not take them.
  std::string run(std::vector<Classification>& results, const std::vector<at::Tensor>& examples) {
    at::Tensor scores;
    try {
      scores = scores_of(examples);
    } catch (const UsageError& error) {
      return error.what();
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    check(scores, static_cast<int64_t>(examples.size()));
    const auto [probability, number] = at::softmax(scores.to(at::kFloat), 1).cpu().max(1);
    for (size_t i = 0; i < results.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      results[i].number = number[row].item<int64_t>();
      results[i].probability = probability[row].item<double>();
      results[i].name = names_.empty() ? std::to_string(results[i].number)
                                       : names_.at(static_cast<size_t>(results[i].number));
    }
    return "";
  }

 private:
  at::Tensor scores_of(const std::vector<at::Tensor>& examples) {
    const auto device = model_.data_preprocessor->device();
    const HalfRehearsal rehearsal(amp_.rehearses());
    const Autocast autocast(
        AutocastOptions(device.type()).enabled(amp_.enabled).dtype(amp_.dtype).policy(amp_.policy));
    return model_.test_step(
        {at::stack(examples), at::zeros({static_cast<int64_t>(examples.size())}, at::kLong)});
  }

  void check(const at::Tensor& scores, int64_t examples) const {
    HALFSTEP_CHECK_USAGE(scores.dim() == 2 && scores.size(0) == examples, "predict",
                         "the model must be a classifier, with scores (n, classes), but its output "
                         "for ",
                         examples, " inputs is ", scores.sizes(),
                         "; write a program around its forward (examples/inference.cpp)");
    HALFSTEP_CHECK_USAGE(names_.empty() || scores.size(1) == static_cast<int64_t>(names_.size()),
                         "predict", "the model must have as many classes as the data set, but has ",
                         scores.size(1), " and ", names_.size(),
                         "; check the data set's classes and the model's");
  }

  BaseModel& model_;
  const AmpSettings& amp_;
  std::vector<std::string> names_;
};

}  // namespace

int64_t classify(BaseModel& model, const InputReader& reader,
                 const std::vector<std::filesystem::path>& files, int64_t batch_size,
                 const AmpSettings& amp, const std::function<void(const Classification&)>& use) {
  HALFSTEP_CHECK_USAGE(batch_size >= 1, "predict", "batch_size must be at least 1, but got ",
                       batch_size, "; 32 is the default");
  const EvaluationMode mode(model);
  const at::NoGradGuard no_grad;
  Classifier classifier(model, amp, reader.classes());
  std::vector<Classification> results;
  std::vector<at::Tensor> examples;
  int64_t errors = 0;
  const auto flush = [&] {
    if (examples.empty()) return;
    if (const auto problem = classifier.run(results, examples); !problem.empty()) {
      for (auto& result : results)
        result.error = result.input.string() + " must be an input that the model takes: " + problem;
      errors += static_cast<int64_t>(results.size());
    }
    for (const auto& result : results) use(result);
    results.clear();
    examples.clear();
  };
  for (const auto& file : files) {
    Classification result;
    result.input = file;
    at::Tensor example;
    try {
      example = reader.read(file);
    } catch (const Error& error) {
      flush();
      result.error = error.what();
      ++errors;
      use(result);
      continue;
    }
    const bool other_size = !examples.empty() && example.sizes() != examples.front().sizes();
    if (other_size || static_cast<int64_t>(examples.size()) == batch_size) flush();
    results.push_back(std::move(result));
    examples.push_back(std::move(example));
  }
  flush();
  return errors;
}

}  // namespace halfstep::train
