// The exchanges of a ProcessGroup.
#include "halfstep/core/error.h"
#include "halfstep/dist/process_group.h"

#include <algorithm>
#include <cstdint>

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace halfstep::dist {

namespace {

at::Tensor to_bytes(const std::string& text, int64_t size) {
  auto bytes = at::zeros({size}, at::kByte);
  // Not memcpy: of an empty text the tensor has no memory.
  std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<uint8_t>());
  return bytes;
}

std::string to_text(const at::Tensor& bytes, int64_t size) {
  return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(size)};
}

// Where two texts part, for a person; empty where they don't.
std::string first_difference(const std::string& first, const std::string& own) {
  if (first == own) return "";
  size_t line = 1;
  size_t begin = 0;
  const auto until = static_cast<size_t>(
      std::mismatch(first.begin(), first.begin() + std::min(first.size(), own.size()), own.begin())
          .first -
      first.begin());
  for (size_t i = 0; i < until; ++i)
    if (first[i] == '\n') {
      ++line;
      begin = i + 1;
    }
  const auto line_of = [&](const std::string& text) {
    const auto end = std::min(text.find('\n', begin), begin + 120);
    return begin >= text.size() ? std::string("nothing")
                                : "'" + text.substr(begin, end - begin) + "'";
  };
  return c10::str("line ", line, ": ", line_of(own), " instead of ", line_of(first));
}

}  // namespace

void ProcessGroup::barrier() {
  all_reduce_(at::zeros({1}, at::kInt));
}

void ProcessGroup::broadcast_(const at::Tensor& tensor, int root) {
  HALFSTEP_CHECK_USAGE(root >= 0 && root < world_size(), "ProcessGroup::broadcast",
                       "the root must be a rank from 0 to ", world_size() - 1, ", but got ", root,
                       "; choose one of the job's");
  const c10::NoGradGuard no_grad;
  count_exchange();
  std::vector<at::Tensor> tensors{tensor};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  handle_->broadcast(tensors, options)->wait();
}

std::string ProcessGroup::broadcast(const std::string& text, int root) {
  auto size = at::zeros({1}, at::kLong);
  size.mutable_data_ptr<int64_t>()[0] = static_cast<int64_t>(text.size());
  broadcast_(size, root);
  const auto length = size.const_data_ptr<int64_t>()[0];
  const auto bytes = rank() == root ? to_bytes(text, length) : at::zeros({length}, at::kByte);
  if (length > 0) broadcast_(bytes, root);
  return to_text(bytes, length);
}

void ProcessGroup::all_reduce_(const at::Tensor& tensor, Reduce reduce) {
  HALFSTEP_CHECK_USAGE(reduce != Reduce::mean || tensor.is_floating_point(),
                       "ProcessGroup::all_reduce_",
                       "a mean must be of floating-point numbers, but got ", tensor.scalar_type(),
                       "; take the sum, and divide it yourself");
  const c10::NoGradGuard no_grad;
  count_exchange();
  std::vector<at::Tensor> tensors{tensor};
  c10d::AllreduceOptions options;
  options.reduceOp = reduce == Reduce::max   ? c10d::ReduceOp::MAX
                     : reduce == Reduce::min ? c10d::ReduceOp::MIN
                                             : c10d::ReduceOp::SUM;
  handle_->allreduce(tensors, options)->wait();
  if (reduce == Reduce::mean) tensors[0].div_(world_size());
}

std::vector<std::string> ProcessGroup::all_gather(const std::string& text) {
  const auto ranks = static_cast<size_t>(world_size());
  const auto gather = [&](const at::Tensor& own) {
    count_exchange();
    std::vector<std::vector<at::Tensor>> all(1);
    for (size_t i = 0; i < ranks; ++i) all[0].push_back(at::empty_like(own));
    std::vector<at::Tensor> input{own};
    handle_->allgather(all, input)->wait();
    return all[0];
  };
  auto size = at::zeros({1}, at::kLong);
  size.mutable_data_ptr<int64_t>()[0] = static_cast<int64_t>(text.size());
  const auto sizes = gather(size);
  int64_t longest = 1;
  for (const auto& each : sizes) longest = std::max(longest, each.const_data_ptr<int64_t>()[0]);
  const auto texts = gather(to_bytes(text, longest));
  std::vector<std::string> result;
  for (size_t i = 0; i < ranks; ++i)
    result.push_back(to_text(texts[i], sizes[i].const_data_ptr<int64_t>()[0]));
  return result;
}

void ProcessGroup::check_same(const char* where, const std::string& what, const std::string& text,
                              const std::string& advice) {
  const auto differences = all_gather(first_difference(broadcast(text), text));
  for (size_t i = 0; i < differences.size(); ++i)
    HALFSTEP_CHECK_USAGE(differences[i].empty(), where, what,
                         " must be the same on all ranks, but rank ", i, " differs from rank 0 in ",
                         differences[i], "; ", advice);
}

}  // namespace halfstep::dist
