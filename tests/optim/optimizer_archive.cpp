#include "tests/optim/optimizer_archive.h"

#include <sstream>

#include <torch/serialize/archive.h>

namespace halfstep::testing {

std::string saved(const torch::optim::Optimizer& optimizer) {
  std::ostringstream out;
  torch::serialize::OutputArchive archive;
  optimizer.save(archive);
  archive.save_to(out);
  return out.str();
}

void load(torch::optim::Optimizer& optimizer, const std::string& bytes) {
  std::istringstream in(bytes);
  torch::serialize::InputArchive archive;
  archive.load_from(in);
  optimizer.load(archive);
}

std::vector<at::Tensor> clones(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> result;
  for (const auto& tensor : parameters) result.push_back(tensor.detach().clone().requires_grad_());
  return result;
}

}  // namespace halfstep::testing
