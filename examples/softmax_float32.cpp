// A softmax kept in float32 for one region: PyTorch's CPU list leaves softmax in bfloat16, and an
// OpPolicy changes that for one part of the program only.
#include "halfstep/halfstep.h"

#include <cstdio>

#include <torch/torch.h>

// Attention weights of queries and keys.
torch::Tensor weights(const torch::Tensor& queries, const torch::Tensor& keys) {
  return torch::softmax(torch::matmul(queries, keys.t()), -1);
}

int main() {
  torch::manual_seed(0);
  const auto queries = torch::randn({4, 64});
  const auto keys = torch::randn({512, 64});

  auto policy = halfstep::OpPolicy::torch(torch::kCPU);
  policy.set("softmax", halfstep::CastRule::float32);

  torch::Tensor stock, kept;
  {
    const halfstep::Autocast autocast(torch::kCPU);
    stock = weights(queries, keys);
  }
  {
    const halfstep::Autocast autocast(halfstep::AutocastOptions(torch::kCPU).policy(policy));
    kept = weights(queries, keys);
  }

  const auto error = [](const torch::Tensor& rows) {
    return (rows.to(torch::kDouble).sum(-1) - 1).abs().max().item<double>();
  };
  std::printf("stock list: %s, rows miss 1 by up to %.1e\n",
              halfstep::dtype_name(stock.scalar_type()).c_str(), error(stock));
  std::printf("policy:     %s, rows miss 1 by up to %.1e\n",
              halfstep::dtype_name(kept.scalar_type()).c_str(), error(kept));
  for (const auto& rule : policy.unmatched()) std::printf("never matched: %s\n", rule.c_str());
}
