#pragma once
#include "halfstep/scaling/overflow_report.h"

#include <ATen/core/Tensor.h>

namespace halfstep::detail {

/// Remembers updates on the scale's device, without a sync: each writes one row of a page, and a
/// full page is condensed there into totals and the last `size` rows with an overflow. Only
/// `report` syncs.
class OverflowLog {
 public:
  /// `by_operations`: the way of a GPU on the CPU too, for tests.
  explicit OverflowLog(int64_t size, bool by_operations = false)
      : size_(size), by_operations_(by_operations) {}

  /// The bit of a source in the mask below, the same at every call.
  double bit_of(const OverflowSource& source);

  /// A scale on the CPU as a number, elsewhere as a tensor of its own.
  struct ScaleBefore {
    double number = 0;
    at::Tensor tensor;
  };

  /// Before and after the scale moves. All are 0-dim floating-point tensors on one device:
  /// `found_inf`, not 0 after an overflow; `mask`, the sum of its sources' bits; `skipped`, the
  /// number of skipped steps.
  ScaleBefore begin_update(const at::Tensor& scale);
  void end_update(const ScaleBefore& before, const at::Tensor& scale, const at::Tensor& found_inf,
                  const at::Tensor& mask, const at::Tensor& skipped);

  /// Whether its memory is made, which the first update does.
  bool has_begun() const { return page_.defined(); }

  int64_t updates() const { return condensed_ + on_page_; }

  OverflowReport report();

 private:
  void make_page(const at::Tensor& scale);
  void condense();

  static constexpr int64_t kRows = 256;

  int64_t size_;
  bool by_operations_;
  std::vector<OverflowSource> sources_;
  int64_t condensed_ = 0;  // updates before the page's first row
  int64_t on_page_ = 0;    // rows of the page in use
  at::Tensor page_;        // [kRows, 5] float64: scale before, after, found_inf, mask, skipped
  at::Tensor last_;        // [size, 6] float64: update's number, then as the page
  at::Tensor totals_;      // [3] float64: overflows, skipped steps, last update without overflow
};

}  // namespace halfstep::detail
