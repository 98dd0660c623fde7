#pragma once
#include "halfstep/nn/linear.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/models/model.h"

#include <memory>
#include <vector>

#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/normalization.h>

namespace halfstep::train {

/// A decoder that predicts the next token: token and position embeddings, `layers` blocks of causal
/// self-attention and a two-layer perceptron (exact GELU, 4 × `width`), each behind a layer norm
/// and with a residual connection, a last layer norm and a linear layer without bias: scores, no
/// softmax.
///
/// Parameters are named token.weight, position.weight, blocks.0.norm1.weight, blocks.0.qkv.weight,
/// …proj, norm2, up, down, norm.weight, norm.bias, head.weight. They start as LibTorch's (and
/// Python's) layers do.
class Gpt : public Model {
 public:
  /// Sizes of the network.
  struct Options {
    int64_t vocabulary = 256;  ///< Tokens are 0 … vocabulary - 1.
    int64_t context = 128;     ///< The longest sequence.
    int64_t width = 256;       ///< Numbers a token; a multiple of `heads`.
    int64_t layers = 4;
    int64_t heads = 4;
  };

  /// Throws UsageError for an option out of range.
  explicit Gpt(const Options& options);

  /// int64 tokens (n, t) with t ≤ context → (n·t, vocabulary): row i·t + j holds the scores of
  /// sequence i after its tokens 0 … j. Throws UsageError for another shape; an index out of range
  /// is LibTorch's error on the CPU and a failed kernel on CUDA.
  torch::Tensor forward(const torch::Tensor& input) override;

  const Options& options() const { return options_; }

 private:
  class Block;

  Options options_;
  torch::nn::Embedding token_{nullptr};
  torch::nn::Embedding position_{nullptr};
  std::vector<std::shared_ptr<Block>> blocks_;
  torch::nn::LayerNorm norm_{nullptr};
  nn::Linear head_{nullptr};
};

/// Builds a Gpt from a config with the keys vocabulary, context, width, layers and heads.
std::shared_ptr<Model> make_gpt(Config& config);

}  // namespace halfstep::train
