#include "halfstep/train/predict/generate.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/error.h"
#include "halfstep/train/models/evaluation_mode.h"

#include <algorithm>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/softmax.h>

namespace halfstep::train {
namespace {

constexpr const char* kGenerateWhere = "generate";

at::Tensor tokens_of(std::string_view text) {
  auto tokens = at::empty({1, static_cast<int64_t>(text.size())}, at::kLong);
  std::transform(text.begin(), text.end(), tokens.mutable_data_ptr<int64_t>(),
                 [](char letter) { return static_cast<unsigned char>(letter); });
  return tokens;
}

}  // namespace

std::string generate(Gpt& model, std::string_view prompt, const GenerateOptions& options,
                     const AmpSettings& amp) {
  HALFSTEP_CHECK_USAGE(!prompt.empty(), kGenerateWhere,
                       "a text must be given to continue, but is empty; "
                       "give at least one character");
  HALFSTEP_CHECK_USAGE(options.length >= 1 && options.temperature >= 0, kGenerateWhere,
                       "length must be at least 1 and temperature at least 0, but got ",
                       options.length, " and ", options.temperature,
                       "; 200 and 1.0 are the defaults");
  HALFSTEP_CHECK_USAGE(model.options().vocabulary == 256, kGenerateWhere,
                       "the model must have a vocabulary of 256, one token a byte, but has ",
                       model.options().vocabulary, "; train it on a TextFile");
  const EvaluationMode mode(model);
  const at::NoGradGuard no_grad;
  const HalfRehearsal rehearsal(amp.rehearses());
  const auto device = model.data_preprocessor->device();
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(options.seed);
  const auto context = static_cast<size_t>(model.options().context);
  std::string text(prompt);
  for (int64_t i = 0; i < options.length; ++i) {
    const auto seen = std::string_view(text).substr(text.size() - std::min(text.size(), context));
    const Autocast autocast(
        AutocastOptions(device.type()).enabled(amp.enabled).dtype(amp.dtype).policy(amp.policy));
    const auto scores = model.forward(tokens_of(seen).to(device))[-1].to(at::kCPU, at::kFloat);
    const auto token =
        options.temperature == 0
            ? scores.argmax()
            : at::multinomial(at::softmax(scores / options.temperature, 0), 1, false, generator);
    text += static_cast<char>(token.item<int64_t>());
  }
  return text.substr(prompt.size());
}

}  // namespace halfstep::train
