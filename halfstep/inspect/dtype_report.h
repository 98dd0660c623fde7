#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <c10/core/ScalarType.h>

namespace halfstep::inspect {

/// How often something ran in each dtype.
using DtypeCounts = std::map<c10::ScalarType, int64_t>;

/// What a DtypeCounter saw. A value: reports of several steps or threads add up with +=.
struct DtypeReport {
  /// By operator name, without "aten::" and overload: {"linear": {bfloat16: 2}, "relu": …}.
  std::map<std::string, DtypeCounts> ops;

  /// By kind of layer (see kind_of_op): {"linear": {bfloat16: 2}, "loss": {float32: 1}}. An op
  /// inside another one that has a kind (addmm inside linear, log_softmax inside a loss) is not
  /// counted here.
  std::map<std::string, DtypeCounts> kinds;

  /// Adds the counts of another report.
  DtypeReport& operator+=(const DtypeReport& other);

  /// Whether any op ran in float16 or bfloat16. False for a float32 model under autocast means that
  /// nothing was cast.
  bool any_low_precision() const;

  /// One line, kinds in a fixed order, the loss last: "linear bfloat16 x2, loss float32 x1". Says
  /// so where nothing ran in 16 bits: "linear float32 x2, loss float32 x1 (nothing was cast to 16
  /// bits)", and where no layer ran: "no layer ran (nothing was cast to 16 bits)".
  std::string summary() const;
};

/// The kind of layer an operator (name without "aten::" and overload) is: "linear" (all matrix
/// products), "convolution", "attention", "recurrent", "embedding", "batch_norm", "layer_norm"
/// (with group and RMS norms), "dropout", "pooling", "activation", "softmax" or "loss"; empty for
/// others.
std::string_view kind_of_op(std::string_view op);

}  // namespace halfstep::inspect
