#include "halfstep/train/weights/export_weights.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/train/files/safetensors.h"
#include "halfstep/train/weights/convert.h"

#include <limits>
#include <string>

#include <ATen/ops/abs.h>
#include <ATen/ops/max.h>
#include <ATen/ops/where.h>

namespace halfstep::train {
namespace {

double largest_finite(const at::Tensor& tensor) {
  const auto sizes = tensor.detach().abs();
  return at::where(sizes.isfinite(), sizes, 0.0).max().item<double>();
}

}  // namespace

ExportReport export_weights(const torch::nn::Module& module, const std::filesystem::path& file,
                            const ExportOptions& options) {
  Safetensors content;
  // What Python's loaders ask for.
  content.metadata = {{"format", "pt"}};
  ExportReport report;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    auto written = tensor.detach();
    if (tensor.is_floating_point()) {
      const auto converted = convert(tensor, options.dtype);
      HALFSTEP_CHECK_USAGE(
          converted.overflowed == 0 || options.allow_overflow, "export", "'", name,
          "' must be within the range of ", dtype_name(options.dtype), ", but ",
          converted.overflowed, " of its ", tensor.numel(), " values are not, the largest ",
          largest_finite(tensor),
          "; export bfloat16 or float32, or let them become inf with --allow-overflow");
      report.overflowed += converted.overflowed;
      report.vanished += converted.vanished;
      written = converted.tensor;
    }
    ++report.tensors;
    report.bytes += written.nbytes();
    content.tensors[name] = written;
  };
  for (const auto& item : module.named_parameters()) add(item.key(), item.value());
  for (const auto& item : module.named_buffers()) add(item.key(), item.value());
  save_safetensors(file, content);
  return report;
}

}  // namespace halfstep::train
