#include "halfstep/autocast/half_rehearsal.h"

#include <functional>
#include <limits>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include <torch/torch.h>

#include "tests/support/tolerance.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace halfstep {

namespace {

using Tensors = std::vector<torch::Tensor>;

/// One operation on float16 tensors, or on the same numbers in float32.
struct Case {
  const char* name;
  std::function<Tensors()> inputs;
  std::function<Tensors(const Tensors&)> run;
  int operations = 1;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

torch::Tensor random_half(at::IntArrayRef sizes) {
  return torch::randn(sizes).to(torch::kHalf);
}

Tensors as_float(const Tensors& tensors) {
  Tensors result;
  for (const auto& t : tensors) result.push_back(t.to(torch::kFloat));
  return result;
}

torch::Tensor convolved(const Tensors& in, int64_t stride, int64_t padding, int64_t dilation,
                        int64_t groups) {
  return at::conv2d(in[0], in[1], in.size() > 2 ? in[2] : torch::Tensor(), stride, padding,
                    dilation, groups);
}

Tensors convolved_backward(const Tensors& in, std::array<bool, 3> mask) {
  const auto [input, weight, bias] = at::convolution_backward(
      in[0], in[1], in[2], at::IntArrayRef({6}), {1, 1}, {1, 1}, {1, 1}, false, {0, 0}, 1, mask);
  return {input, weight, bias};
}

Tensors attended(const Tensors& in, bool is_causal, const std::optional<torch::Tensor>& mask) {
  const auto [output, logsumexp] =
      at::_scaled_dot_product_flash_attention_for_cpu(in[0], in[1], in[2], 0.0, is_causal, mask);
  return {output, logsumexp};
}

Tensors attended_backward(const Tensors& in, bool is_causal,
                          const std::optional<torch::Tensor>& mask) {
  // The forward's result as float16 training has it: rounded.
  const auto exact = as_float({in[1], in[2], in[3]});
  auto [output, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
      exact[0], exact[1], exact[2], 0.0, is_causal,
      mask ? std::optional(mask->to(torch::kFloat)) : mask);
  output = output.to(torch::kHalf).to(in[0].scalar_type());
  const auto [query, key, value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      in[0], in[1], in[2], in[3], output, logsumexp, 0.0, is_causal, mask);
  return {query, key, value};
}

Tensors heads(size_t count) {
  Tensors result;
  // As a model has them: a view of (batch, time, head, width).
  for (size_t i = 0; i < count; ++i) result.push_back(random_half({2, 17, 3, 8}).transpose(1, 2));
  return result;
}

Tensors lstm_tensors() {
  return {random_half({5, 2, 16}), random_half({32, 16}),  random_half({32, 8}),  random_half({32}),
          random_half({32}),       random_half({1, 2, 8}), random_half({1, 2, 8})};
}

Tensors lstm_layer(const Tensors& in) {
  const auto [output, hidden, cell, workspace] =
      at::mkldnn_rnn_layer(in[0], in[1], in[2], in[3], in[4], in[5], in[6], false, {}, 2, 8, 1,
                           true, false, false, true);
  return {output, hidden, cell};
}

Tensors lstm_layer_backward(const Tensors& in) {
  const auto exact = as_float(in);
  const auto [y, hidden, cell, workspace] =
      at::mkldnn_rnn_layer(exact[0], exact[1], exact[2], exact[3], exact[4], exact[5], exact[6],
                           false, {}, 2, 8, 1, true, false, false, true);
  const auto rounded = [&](const torch::Tensor& t) {
    return t.to(torch::kHalf).to(in[0].scalar_type());
  };
  const auto result = at::mkldnn_rnn_layer_backward(
      in[0], in[1], in[2], in[3], in[4], in[5], in[6], rounded(y), rounded(hidden), rounded(cell),
      in[7], in[8], in[9], false, 2, 8, 1, true, true, false, {}, false, workspace);
  return std::apply([](const auto&... t) { return Tensors{t...}; }, result);
}

torch::Tensor into(torch::Tensor out, const std::function<void(torch::Tensor&)>& write) {
  write(out);
  return out;
}

const Case kCases[] = {
    {"mm",
     [] {
       return Tensors{random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) { return Tensors{at::mm(in[0], in[1])}; }},
    {"mm_transposed",
     [] {
       return Tensors{random_half({33, 17}).t(), random_half({9, 33}).t()};
     },
     [](const Tensors& in) { return Tensors{at::mm(in[0], in[1])}; }},
    {"mm_strided",
     [] {
       return Tensors{random_half({34, 99}).slice(0, 0, 34, 2).slice(1, 0, 99, 3),
                      random_half({1, 9}).expand({33, 9})};
     },
     [](const Tensors& in) { return Tensors{at::mm(in[0], in[1])}; }},
    {"mm_empty",
     [] {
       return Tensors{random_half({4, 0}), random_half({0, 3})};
     },
     [](const Tensors& in) { return Tensors{at::mm(in[0], in[1])}; }},
    {"mm_out",
     [] {
       return Tensors{random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{
           into(at::empty({0}, in[0].options()), [&](auto& out) { at::mm_out(out, in[0], in[1]); }),
           into(at::empty({9, 17}, in[0].options()).t(),
                [&](auto& out) { at::mm_out(out, in[0], in[1]); })};
     },
     2},
    {"addmm",
     [] {
       return Tensors{random_half({9}), random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) { return Tensors{at::addmm(in[0], in[1], in[2])}; }},
    {"addmm_alpha_beta",
     [] {
       return Tensors{random_half({17, 9}), random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) { return Tensors{at::addmm(in[0], in[1], in[2], 0.3, -1.7)}; }},
    {"addmm_beta_0",
     [] {
       return Tensors{torch::full({9}, std::numeric_limits<float>::quiet_NaN(), torch::kHalf),
                      random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) { return Tensors{at::addmm(in[0], in[1], in[2], 0)}; }},
    {"addmm_out",
     [] {
       return Tensors{random_half({9}), random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{into(at::empty({9, 17}, in[0].options()).t(),
                           [&](auto& out) { at::addmm_out(out, in[0], in[1], in[2], 2, 3); })};
     }},
    {"addmm_in_place",
     [] {
       return Tensors{random_half({17, 9}), random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{
           into(in[0].clone(), [&](auto& self) { self.addmm_(in[1], in[2], 0.5, 2); }),
           into(in[0].t().contiguous().t(), [&](auto& self) { self.addmm_(in[1], in[2]); })};
     },
     2},
    {"addmm_activation",
     [] {
       return Tensors{random_half({9}), random_half({17, 33}), random_half({33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{at::_addmm_activation(in[0], in[1], in[2]),
                      at::_addmm_activation(in[0], in[1], in[2], 0.5, 2, /*use_gelu=*/true),
                      into(at::empty({0}, in[0].options()), [&](auto& out) {
                        at::_addmm_activation_out(out, in[0], in[1], in[2]);
                      })};
     },
     3},
    {"bmm",
     [] {
       return Tensors{random_half({5, 17, 33}), random_half({5, 9, 33}).transpose(1, 2)};
     },
     [](const Tensors& in) { return Tensors{at::bmm(in[0], in[1])}; }},
    {"bmm_out",
     [] {
       return Tensors{random_half({5, 17, 33}), random_half({5, 33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{into(at::empty({0}, in[0].options()),
                           [&](auto& out) { at::bmm_out(out, in[0], in[1]); }),
                      into(at::empty({7, 17, 9}, in[0].options()).narrow(0, 1, 5),
                           [&](auto& out) { at::bmm_out(out, in[0], in[1]); })};
     },
     2},
    {"baddbmm",
     [] {
       return Tensors{random_half({1, 17, 9}), random_half({5, 17, 33}), random_half({5, 33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{at::baddbmm(in[0], in[1], in[2]), at::baddbmm(in[0], in[1], in[2], 0.3, 2)};
     },
     2},
    {"baddbmm_out",
     [] {
       return Tensors{random_half({5, 17, 9}), random_half({5, 17, 33}), random_half({5, 33, 9})};
     },
     [](const Tensors& in) {
       return Tensors{
           into(at::empty_like(in[0]),
                [&](auto& out) { at::baddbmm_out(out, in[0], in[1], in[2], 0, 2); }),
           into(in[0].clone(), [&](auto& self) { self.baddbmm_(in[1], in[2], 0.5, 2); })};
     },
     2},
    {"mv",
     [] {
       return Tensors{random_half({17, 33}), random_half({33})};
     },
     [](const Tensors& in) {
       return Tensors{at::mv(in[0], in[1]), into(at::empty({0}, in[0].options()), [&](auto& out) {
                        at::mv_out(out, in[0], in[1]);
                      })};
     },
     2},
    {"mv_transposed",
     [] {
       return Tensors{random_half({33, 17}).t(), random_half({66}).slice(0, 0, 66, 2)};
     },
     [](const Tensors& in) { return Tensors{at::mv(in[0], in[1])}; }},
    {"addmv",
     [] {
       return Tensors{random_half({17}), random_half({17, 33}), random_half({33})};
     },
     [](const Tensors& in) {
       return Tensors{at::addmv(in[0], in[1], in[2], 0.3, -1.7),
                      into(at::empty({0}, in[0].options()),
                           [&](auto& out) { at::addmv_out(out, in[0], in[1], in[2]); }),
                      into(in[0].clone(), [&](auto& self) { self.addmv_(in[1], in[2], 0.5, 2); })};
     },
     3},
    {"dot",
     [] {
       return Tensors{random_half({1000}), random_half({1000})};
     },
     [](const Tensors& in) {
       return Tensors{at::dot(in[0], in[1]), at::vdot(in[0], in[1]),
                      into(at::empty({0}, in[0].options()),
                           [&](auto& out) { at::dot_out(out, in[0], in[1]); }),
                      into(at::empty({0}, in[0].options()),
                           [&](auto& out) { at::vdot_out(out, in[0], in[1]); })};
     },
     4},
    {"conv2d",
     [] {
       return Tensors{random_half({3, 4, 11, 9}), random_half({6, 4, 3, 3})};
     },
     [](const Tensors& in) { return Tensors{convolved(in, 1, 1, 1, 1)}; }},
    {"conv2d_bias",
     [] {
       return Tensors{random_half({3, 4, 11, 9}), random_half({6, 4, 3, 3}), random_half({6})};
     },
     [](const Tensors& in) {
       return Tensors{convolved(in, 2, 0, 1, 1), convolved(in, 1, 2, 2, 1)};
     },
     2},
    {"conv2d_groups",
     [] {
       return Tensors{random_half({3, 4, 11, 9}), random_half({8, 1, 3, 3}), random_half({8})};
     },
     [](const Tensors& in) { return Tensors{convolved(in, 1, 1, 1, 4)}; }},
    {"conv2d_channels_last",
     [] {
       return Tensors{random_half({3, 4, 11, 9}).contiguous(at::MemoryFormat::ChannelsLast),
                      random_half({6, 4, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast),
                      random_half({6})};
     },
     [](const Tensors& in) { return Tensors{convolved(in, 1, 1, 1, 1)}; }},
    {"conv2d_sliced",
     [] {
       return Tensors{random_half({3, 8, 22, 9}).slice(1, 0, 8, 2).slice(2, 0, 22, 2),
                      random_half({6, 4, 3, 3})};
     },
     [](const Tensors& in) { return Tensors{convolved(in, 1, 1, 1, 1)}; }},
    {"conv1d",
     [] {
       return Tensors{random_half({3, 4, 11}), random_half({6, 4, 3}), random_half({6})};
     },
     [](const Tensors& in) { return Tensors{at::conv1d(in[0], in[1], in[2])}; }},
    {"conv3d",
     [] {
       return Tensors{random_half({2, 4, 5, 6, 7}), random_half({6, 4, 3, 3, 3}), random_half({6})};
     },
     [](const Tensors& in) { return Tensors{at::conv3d(in[0], in[1], in[2])}; }},
    {"conv_transpose2d",
     [] {
       return Tensors{random_half({3, 4, 6, 5}), random_half({4, 6, 4, 4}), random_half({6})};
     },
     [](const Tensors& in) { return Tensors{at::conv_transpose2d(in[0], in[1], in[2], 2, 1)}; }},
    {"convolution_backward",
     [] {
       return Tensors{random_half({3, 6, 11, 9}), random_half({3, 4, 11, 9}),
                      random_half({6, 4, 3, 3})};
     },
     [](const Tensors& in) {
       return convolved_backward(in, {true, true, true});
     }},
    {"convolution_backward_of_the_weight_only",
     [] {
       return Tensors{random_half({3, 6, 11, 9}), random_half({3, 4, 11, 9}),
                      random_half({6, 4, 3, 3})};
     },
     [](const Tensors& in) {
       return convolved_backward(in, {false, true, false});
     }},
    {"convolution_backward_channels_last",
     [] {
       return Tensors{random_half({3, 6, 11, 9}).contiguous(at::MemoryFormat::ChannelsLast),
                      random_half({3, 4, 11, 9}).contiguous(at::MemoryFormat::ChannelsLast),
                      random_half({6, 4, 3, 3})};
     },
     [](const Tensors& in) {
       return convolved_backward(in, {true, false, true});
     }},
    {"attention", [] { return heads(3); },
     [](const Tensors& in) { return attended(in, false, {}); }},
    {"attention_causal", [] { return heads(3); },
     [](const Tensors& in) { return attended(in, true, {}); }},
    {"attention_mask",
     [] {
       return Tensors{heads(3)[0], heads(3)[0], heads(3)[0], random_half({17, 17})};
     },
     [](const Tensors& in) { return attended(in, false, in[3]); }},
    {"attention_float32_mask",
     [] {
       return Tensors{heads(3)[0], heads(3)[0], heads(3)[0], random_half({17, 17})};
     },
     [](const Tensors& in) { return attended(in, false, in[3].to(torch::kFloat)); }},
    {"attention_backward", [] { return heads(4); },
     [](const Tensors& in) { return attended_backward(in, false, {}); }},
    {"attention_backward_causal", [] { return heads(4); },
     [](const Tensors& in) { return attended_backward(in, true, {}); }},
    {"attention_backward_mask",
     [] {
       auto in = heads(4);
       in.push_back(random_half({17, 17}));
       return in;
     },
     [](const Tensors& in) { return attended_backward(in, false, in[4]); }},
    {"lstm", [] { return lstm_tensors(); }, [](const Tensors& in) { return lstm_layer(in); }},
    {"lstm_backward",
     [] {
       auto in = lstm_tensors();
       for (int i = 0; i < 3; ++i) in.push_back(random_half({i == 0 ? 5 : 1, 2, 8}));
       return in;
     },
     [](const Tensors& in) { return lstm_layer_backward(in); }},
};

// Computed before anything is registered.
class StockResults final : public ::testing::Environment {
 public:
  void SetUp() override {
    for (const auto& c : kCases) {
      torch::manual_seed(0);
      try {
        results[c.name] = c.run(c.inputs());
      } catch (const std::exception&) {
        // This LibTorch or CPU has no such float16 kernel.
      }
    }
  }
  static inline std::map<std::string, Tensors> results;
};
const auto* const kStockResults = ::testing::AddGlobalTestEnvironment(new StockResults);

}  // namespace

class HalfRehearsalOps : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override { torch::manual_seed(0); }
};
INSTANTIATE_TEST_SUITE_P(All, HalfRehearsalOps, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

TEST_P(HalfRehearsalOps, EqualTheRoundedFloat32OpToTheBit) {
  const auto inputs = GetParam().inputs();
  const auto expected = GetParam().run(as_float(inputs));
  const auto before = HalfRehearsal::uses();
  Tensors got;
  {
    const HalfRehearsal rehearsal;
    got = GetParam().run(inputs);
  }
  EXPECT_EQ(HalfRehearsal::uses() - before, GetParam().operations);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    SCOPED_TRACE(i);
    ASSERT_EQ(got[i].defined(), expected[i].defined());
    if (!got[i].defined()) continue;
    const bool logsumexp = got.size() == 2 && got[i].dim() == 3 && got[0].dim() == 4;
    testing::expect_same_bits(got[i], logsumexp ? expected[i] : expected[i].to(torch::kHalf));
    EXPECT_EQ(got[i].strides(), expected[i].strides());
  }
}

TEST_P(HalfRehearsalOps, AreLibTorchsOwnToTheBitOutsideOfOne) {
  { const HalfRehearsal registers; }
  const auto before = HalfRehearsal::uses();
  const auto found = StockResults::results.find(GetParam().name);
  if (found == StockResults::results.end()) {
    EXPECT_THAT(GetParam().name, ::testing::StartsWith("lstm"));
    EXPECT_THROW(GetParam().run(GetParam().inputs()), std::exception);
    return;
  }
  const auto got = GetParam().run(GetParam().inputs());
  const auto& expected = found->second;
  EXPECT_EQ(HalfRehearsal::uses(), before);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (expected[i].defined()) testing::expect_same_bits(got[i], expected[i]);
  }
}

}  // namespace halfstep
