#include "halfstep/train/models/data_preprocessor.h"

#include "halfstep/core/error.h"
#include "halfstep/train/data/to_device.h"

#include <algorithm>

#include <torch/types.h>

namespace halfstep::train {

namespace {

constexpr const char* kRemedy = "; give one of each, or one for each channel";

// Empty where the values are right, else the rule and what was got.
std::string problem(const std::vector<double>& mean, const std::vector<double>& std) {
  if (mean.size() != std.size())
    return c10::str("mean and std must have as many numbers as each other, but got ", mean.size(),
                    " and ", std.size());
  if (std::any_of(std.begin(), std.end(), [](double each) { return !(each > 0); }))
    return c10::str("std must be above 0, but got ", c10::ArrayRef<double>(std));
  return "";
}

torch::Tensor per_channel(const std::vector<double>& values) {
  return torch::tensor(values, torch::kFloat).view({-1, 1, 1});
}

}  // namespace

DataPreprocessorImpl::DataPreprocessorImpl(const std::vector<double>& mean,
                                           const std::vector<double>& std)
    : torch::nn::Module("DataPreprocessor") {
  const auto wrong = problem(mean, std);
  HALFSTEP_CHECK_USAGE(wrong.empty(), "DataPreprocessor", wrong, kRemedy);
  if (mean.empty()) return;
  mean_ = register_buffer("mean", per_channel(mean));
  std_ = register_buffer("std", per_channel(std));
}

Batch DataPreprocessorImpl::forward(const Batch& batch, bool) {
  auto [data, target] = to_device(batch, device_);
  if (!mean_.defined()) return {data, target};
  HALFSTEP_CHECK_USAGE(data.dim() >= 3 && (mean_.size(0) == 1 || mean_.size(0) == data.size(-3)),
                       "DataPreprocessor", "data must have the ", mean_.size(0),
                       " channels of the mean, but got shape ", data.sizes(),
                       "; give one mean and std, or one for each channel");
  return {(data - mean_) / std_, target};
}

at::Tensor DataPreprocessorImpl::denormalize(const at::Tensor& data) const {
  return mean_.defined() ? data * std_ + mean_ : data;
}

void DataPreprocessorImpl::to(torch::Device device, torch::Dtype dtype, bool non_blocking) {
  torch::nn::Module::to(device, dtype, non_blocking);
  device_ = device;
}

void DataPreprocessorImpl::to(torch::Device device, bool non_blocking) {
  torch::nn::Module::to(device, non_blocking);
  device_ = device;
}

std::shared_ptr<DataPreprocessorImpl> make_data_preprocessor(Config& config) {
  const auto type = config.get<std::string>("type", "DataPreprocessor");
  if (type != "DataPreprocessor" && type != "ImgDataPreprocessor")
    config.fail("type", "must be DataPreprocessor or ImgDataPreprocessor");
  const auto mean = config.get<std::vector<double>>("mean", {});
  const auto std = config.get<std::vector<double>>("std", {});
  if (const auto wrong = problem(mean, std); !wrong.empty())
    config.fail("", "is a mapping in which " + wrong + kRemedy);
  return std::make_shared<DataPreprocessorImpl>(mean, std);
}

}  // namespace halfstep::train
