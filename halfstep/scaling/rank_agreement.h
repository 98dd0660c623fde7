#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

// c10d's headers take seconds to compile: only the .cpp includes them.
namespace c10d {
class ProcessGroup;
}

namespace halfstep::detail {

/// Makes the ranks of a process group skip together.
class RankAgreement {
 public:
  /// Throws UsageError for an empty pointer.
  explicit RankAgreement(const c10::intrusive_ptr<c10d::ProcessGroup>& group);
  ~RankAgreement();
  RankAgreement(const RankAgreement&) = delete;
  RankAgreement& operator=(const RankAgreement&) = delete;

  /// The largest `found_inf` of all ranks, by one allreduce of three numbers that every rank must
  /// join. Both are 0-dim float32 on one device, for which the group has a backend. Does not sync
  /// with a GPU, unless `check_scale`, which throws UsageError on every rank where the ranks'
  /// scales differ.
  at::Tensor largest(const at::Tensor& found_inf, const at::Tensor& scale, bool check_scale) const;

 private:
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
};

}  // namespace halfstep::detail
