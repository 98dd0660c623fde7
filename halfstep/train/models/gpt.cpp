#include "halfstep/train/models/gpt.h"

#include "halfstep/core/error.h"
#include "halfstep/nn/attention.h"

#include <functional>
#include <string>

#include <ATen/ops/gelu.h>
#include <torch/nn/modules/container/modulelist.h>

namespace halfstep::train {
namespace {

torch::nn::LayerNorm layer_norm(int64_t width) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({width}));
}

// Calls `fail` with the key and the rule of each option that is out of range.
void check(const Gpt::Options& o, const std::function<void(const char*, const char*)>& fail) {
  if (o.vocabulary < 1) fail("vocabulary", "must be at least 1");
  if (o.context < 1) fail("context", "must be at least 1");
  if (o.layers < 0) fail("layers", "must be at least 0");
  if (o.heads < 1) fail("heads", "must be at least 1");
  if (o.width < 1 || (o.heads > 0 && o.width % o.heads != 0))
    fail("width", "must be a multiple of heads, at least 1");
}

}  // namespace

class Gpt::Block : public torch::nn::Module {
 public:
  explicit Block(const Options& options)
      : heads_(options.heads),
        norm1_(register_module("norm1", layer_norm(options.width))),
        qkv_(register_module("qkv", nn::Linear(options.width, 3 * options.width))),
        proj_(register_module("proj", nn::Linear(options.width, options.width))),
        norm2_(register_module("norm2", layer_norm(options.width))),
        up_(register_module("up", nn::Linear(options.width, 4 * options.width))),
        down_(register_module("down", nn::Linear(4 * options.width, options.width))) {}

  torch::Tensor forward(const torch::Tensor& input) {
    const auto x = input + proj_(attention(norm1_(input)));
    return x + down_(at::gelu(up_(norm2_(x))));
  }

 private:
  torch::Tensor attention(const torch::Tensor& x) {
    const auto n = x.size(0), t = x.size(1), width = x.size(2);
    const auto qkv =
        qkv_(x).view({n, t, 3, heads_, width / heads_}).permute({2, 0, 3, 1, 4}).unbind(0);
    return nn::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], /*is_causal=*/true)
        .transpose(1, 2)
        .reshape({n, t, width});
  }

  int64_t heads_;
  torch::nn::LayerNorm norm1_;
  nn::Linear qkv_, proj_;
  torch::nn::LayerNorm norm2_;
  nn::Linear up_, down_;
};

Gpt::Gpt(const Options& options) : options_(options) {
  check(options_, [](const char* key, const char* rule) {
    halfstep::detail::raise<UsageError>("Gpt", key, " ", rule);
  });
  token_ = register_module("token", torch::nn::Embedding(options_.vocabulary, options_.width));
  position_ = register_module("position", torch::nn::Embedding(options_.context, options_.width));
  const auto blocks = register_module("blocks", torch::nn::ModuleList());
  for (int64_t i = 0; i < options_.layers; ++i) {
    blocks_.push_back(std::make_shared<Block>(options_));
    blocks->push_back(blocks_.back());
  }
  norm_ = register_module("norm", layer_norm(options_.width));
  head_ = register_module(
      "head",
      nn::Linear(torch::nn::LinearOptions(options_.width, options_.vocabulary).bias(false)));
}

torch::Tensor Gpt::forward(const torch::Tensor& input) {
  HALFSTEP_CHECK_USAGE(input.dim() == 2 && input.size(1) <= options_.context, "Gpt::forward",
                       "input must have shape (n, t) with t at most ", options_.context,
                       ", but got ", input.sizes(),
                       "; set the model's context to the length of the sequences");
  auto x = token_(input) + position_->weight.narrow(0, 0, input.size(1));
  for (const auto& block : blocks_) x = block->forward(x);
  return head_(norm_(x)).flatten(0, 1);
}

std::shared_ptr<Model> make_gpt(Config& config) {
  Gpt::Options options;
  options.vocabulary = config.get("vocabulary", options.vocabulary);
  options.context = config.get("context", options.context);
  options.width = config.get("width", options.width);
  options.layers = config.get("layers", options.layers);
  options.heads = config.get("heads", options.heads);
  check(options, [&](const char* key, const char* rule) { config.fail(key, rule); });
  return std::make_shared<Gpt>(options);
}

}  // namespace halfstep::train
