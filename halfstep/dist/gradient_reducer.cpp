#include "halfstep/dist/gradient_reducer.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/dist/gradient_compression.h"
#include "halfstep/graph/recorder.h"
#include "halfstep/optim/gradient_dtype.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <unordered_map>

#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

namespace halfstep::dist {

namespace {

constexpr const char* kGradientReducerWhere = "GradientReducer";

int64_t cap_bytes(const DistributedDataParallelOptions& options) {
  HALFSTEP_CHECK_USAGE(options.bucket_cap_mb() > 0 && options.bucket_cap_mb() < 1 << 20,
                       kGradientReducerWhere,
                       "bucket_cap_mb must be above 0 and below 2^20, but got ",
                       options.bucket_cap_mb(), "; 25 is the default");
  return std::max<int64_t>(1, static_cast<int64_t>(options.bucket_cap_mb() * 1024 * 1024));
}

void check_parameter(const std::string& name, const at::Tensor& parameter,
                     const at::Tensor& first) {
  HALFSTEP_CHECK_USAGE(parameter.device() == first.device(), kGradientReducerWhere,
                       "all parameters must be on one device, but got '", name, "' on ",
                       parameter.device(), " and others on ", first.device(),
                       "; move the model with to(device)");
  const auto dtype = optim::gradient_dtype(parameter);
  HALFSTEP_CHECK_USAGE(
      dtype == parameter.scalar_type(), kGradientReducerWhere,
      "gradients must have their parameter's dtype to be exchanged, but those of '", name, "' are ",
      dtype_name(dtype), " (set_gradient_dtype) and it is ", dtype_name(parameter.scalar_type()),
      "; leave that out, and take gradient_compression for less traffic");
}

}  // namespace

GradientReducer::GradientReducer(const NamedTensors& parameters, ProcessGroup& group,
                                 const DistributedDataParallelOptions& options)
    : group_(group), options_(options) {
  const auto cap = cap_bytes(options_);
  for (const auto& item : parameters) {
    if (!item.value().requires_grad()) continue;
    names_.push_back(item.key());
    parameters_.push_back(item.value());
    check_parameter(item.key(), item.value(), parameters_.front());
  }
  HALFSTEP_CHECK_USAGE(!parameters_.empty(), kGradientReducerWhere,
                       "there must be a parameter that requires gradients, but there is none; make "
                       "the reducer before they are frozen, or none");
  check_same_form(group_, parameters, "the parameters");
  // As Python: the first backward shows in which order buckets fill; until then one is enough, but
  // where that order may change.
  std::vector<size_t> sizes{std::numeric_limits<size_t>::max()};
  if (options_.find_unused_parameters())
    sizes = {static_cast<size_t>(c10d::kDefaultFirstBucketBytes), static_cast<size_t>(cap)};
  auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(
      parameters_, sizes, std::vector<bool>(parameters_.size(), false)));
  std::reverse(buckets.begin(), buckets.end());
  std::unordered_map<size_t, std::string> names;
  for (size_t i = 0; i < names_.size(); ++i) names[i] = names_[i];
  reducer_ = std::make_shared<c10d::Reducer>(
      parameters_, std::move(buckets), group_.handle(),
      std::vector<bool>(parameters_.size(), false), cap, options_.find_unused_parameters(),
      options_.gradient_as_bucket_view(), std::move(names), c10d::kDefaultFirstBucketBytes,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false,
      std::vector<int64_t>());
  // The reducer takes one for granted where the parameters that are used change.
  logger_ = std::make_shared<c10d::Logger>(reducer_);
  reducer_->set_logger(logger_);
  for (const auto& parameter : parameters_) {
    accumulators_.push_back(torch::autograd::impl::grad_accumulator(parameter));
    kinds_.push_back(parameter.options());
    sizes_.push_back(parameter.sizes().vec());
  }
  if (options_.gradient_compression() == GradientCompression::float16)
    reducer_->register_builtin_comm_hook(c10d::BuiltinCommHookType::FP16_COMPRESS);
  if (options_.gradient_compression() == GradientCompression::bfloat16)
    reducer_->register_comm_hook(halfstep::detail::make_bfloat16_hook(group_.handle()));
}

GradientReducer::~GradientReducer() = default;

void GradientReducer::keep_hooks() {
  namespace impl = torch::autograd::impl;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& parameter = parameters_[i];
    if (impl::try_get_grad_accumulator(parameter) == accumulators_[i]) continue;
    HALFSTEP_CHECK_USAGE(
        parameter.sizes() == sizes_[i] && parameter.scalar_type() == kinds_[i].dtype() &&
            parameter.device() == kinds_[i].device(),
        kGradientReducerWhere, "parameters must stay what they were, but '", names_[i], "' is ",
        dtype_name(parameter.scalar_type()), " ", parameter.sizes(), " on ", parameter.device(),
        " now; change the model first, and make the reducer then");
    impl::set_grad_accumulator(parameter, halfstep::detail::weak_node(accumulators_[i]));
  }
}

/// Whether a graph that is there accumulates past the hooks.
bool GradientReducer::has_other_hooks() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto node = torch::autograd::impl::try_get_grad_accumulator(parameters_[i]);
    if (node && node != accumulators_[i]) return true;
  }
  return false;
}

void GradientReducer::prepare_for_forward() {
  keep_hooks();
  group_.count_exchange();
  try {
    reducer_->prepare_for_forward();
    reducer_->rebuild_buckets();
  } catch (const c10::DistError&) {
    throw;
  } catch (const c10::Error& error) {
    explain(error.what_without_backtrace());
  }
  forward_prepared_ = true;
}

void GradientReducer::prepare_for_backward(const std::vector<at::Tensor>& outputs) {
  HALFSTEP_CHECK_USAGE(halfstep::detail::Recorder::current() == nullptr, kGradientReducerWhere,
                       "a step that a Graph records must do all by operations, but gradients are "
                       "exchanged by hooks of backward; train it without a Graph");
  HALFSTEP_CHECK_USAGE(!has_other_hooks(), kGradientReducerWhere,
                       "weights must not be given other memory (torch::load, set_data) between "
                       "the reducer's last step and a forward, but were, so LibTorch has dropped "
                       "the hooks on them; call keep_hooks() before that forward");
  if (!forward_prepared_) prepare_for_forward();
  forward_prepared_ = false;
  try {
    reducer_->prepare_for_backward(outputs);
  } catch (const c10::DistError&) {
    throw;
  } catch (const c10::Error& error) {
    explain(error.what_without_backtrace());
  }
}

void GradientReducer::check_reduced() {
  try {
    reducer_->check_finalized();
  } catch (const c10::DistError&) {
    throw;
  } catch (const c10::Error& error) {
    explain(error.what_without_backtrace());
  }
}

/// LibTorch's message is of Python's class, and names parameters by numbers.
void GradientReducer::explain(const std::string& message) const {
  const std::string marker = "did not receive grad for rank ";
  const auto place = message.find(marker);
  const auto colon = place == message.npos ? place : message.find(':', place);
  if (colon == message.npos)
    halfstep::detail::raise<UsageError>(
        kGradientReducerWhere,
        "each prepared backward must end before the next, but LibTorch says: ", message,
        "; call backward() once for each prepare_for_backward");
  std::istringstream numbers(message.substr(colon + 1));
  std::string missing;
  size_t index = 0;
  while (numbers >> index && index < names_.size())
    missing += (missing.empty() ? "'" : ", '") + names_[index] + "'";
  halfstep::detail::raise<UsageError>(
      kGradientReducerWhere,
      "every parameter must take part in the loss on every rank, but on rank ", group_.rank(),
      " these got no gradient: ", missing.empty() ? "(unknown)" : missing,
      "; set find_unused_parameters(true), or freeze them (requires_grad_(false)) before");
}

}  // namespace halfstep::dist
