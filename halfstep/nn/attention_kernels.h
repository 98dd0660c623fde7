#pragma once
#include <cstdint>

#include <c10/util/BFloat16.h>

namespace halfstep::nn::detail {

/// Attention of each of batch × heads heads alone: length positions of width features, width even.
struct AttentionShape {
  int64_t batch, heads, length, width;
  bool is_causal;
  float scale;
};

/// A (batch, heads, length, width) tensor; features lie side by side.
template <class T>
struct Heads {
  T* data;
  int64_t batch_stride, head_stride, row_stride;

  T* head(const AttentionShape& shape, int64_t index) const {
    return data + index / shape.heads * batch_stride + index % shape.heads * head_stride;
  }
};
using HeadsIn = Heads<const c10::BFloat16>;
using HeadsOut = Heads<c10::BFloat16>;

/// output = softmax(scale · query keyᵀ) value, and logsumexp (batch, heads, length), dense: the
/// logarithm of the sum of exp(scale · scores) of each position. Scores and sums are float32,
/// weights are rounded to bfloat16 before they meet the values; what they sum up to is divided by
/// afterwards, so that rounding moves no weight. Needs LibTorch's bfloat16 micro-kernels
/// (AVX512 or AMX). In parallel over heads.
void attention_forward(const AttentionShape& shape, const HeadsIn& query, const HeadsIn& key,
                       const HeadsIn& value, const HeadsOut& output, float* logsumexp);

/// The gradients of query, key and value from that of the output. Weights are computed again from
/// float32 scores and logsumexp.
void attention_backward(const AttentionShape& shape, const HeadsIn& query, const HeadsIn& key,
                        const HeadsIn& value, const HeadsIn& output, const float* logsumexp,
                        const HeadsIn& grad, const HeadsOut& grad_query, const HeadsOut& grad_key,
                        const HeadsOut& grad_value);

}  // namespace halfstep::nn::detail
