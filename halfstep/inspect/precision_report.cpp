#include "halfstep/inspect/precision_report.h"

#include "halfstep/core/dtype.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <ostream>

namespace halfstep::inspect {

namespace {

template <class Rows, class Value>
int64_t sum(const Rows& rows, const Value& value) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0},
                         [&](int64_t total, const auto& row) { return total + value(row); });
}

std::string count(int64_t number, const std::string& what) {
  return std::to_string(number) + " " + what + (number == 1 ? "" : "s");
}

std::string size_text(int64_t bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB"};
  size_t unit = 0;
  // In tenths, so that it prints without a stream.
  int64_t tenths = bytes * 10;
  for (; unit + 1 < units.size() && tenths >= 10240; ++unit) tenths = (tenths + 512) / 1024;
  auto text = std::to_string(tenths / 10);
  if (unit > 0) text += "." + std::to_string(tenths % 10);
  return text + " " + units[unit];
}

using Row = std::vector<std::string>;

/// Columns as wide as their widest entry, two spaces between.
std::string table(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += "  " + row[i] + std::string(widths[i] - row[i].size(), ' ');
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string headline(const char* name, const PrecisionReport::Pass& pass) {
  return std::string(name) + ": " + std::to_string(pass.low_precision_calls()) + " of " +
         count(pass.calls(), "op") + " ran in 16 bits; " + count(pass.cast_count(), "cast") + ", " +
         size_text(pass.cast_bytes()) + "\n";
}

std::string tables(const PrecisionReport::Pass& pass, bool by_module) {
  const auto with_module = [&](const std::string& module, Row row) {
    if (by_module) row.insert(row.begin(), module.empty() ? "-" : module);
    return row;
  };
  std::string text;
  if (!pass.ops.empty()) {
    std::vector<Row> rows{with_module("module", {"op", "dtype", "calls"})};
    for (const auto& op : pass.ops)
      rows.push_back(
          with_module(op.module, {op.op, dtype_name(op.dtype), std::to_string(op.calls)}));
    text += table(rows);
  }
  if (!pass.casts.empty()) {
    std::vector<Row> rows{with_module("module", {"cast", "", "casts", "written"})};
    for (const auto& cast : pass.casts)
      rows.push_back(with_module(cast.module, {dtype_name(cast.from), "to " + dtype_name(cast.to),
                                               std::to_string(cast.casts), size_text(cast.bytes)}));
    text += table(rows);
  }
  return text;
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

int64_t PrecisionReport::Pass::calls() const {
  return sum(ops, [](const Op& op) { return op.calls; });
}

int64_t PrecisionReport::Pass::low_precision_calls() const {
  return sum(ops, [](const Op& op) { return is_low_precision(op.dtype) ? op.calls : 0; });
}

int64_t PrecisionReport::Pass::cast_count() const {
  return sum(casts, [](const Cast& cast) { return cast.casts; });
}

int64_t PrecisionReport::Pass::cast_bytes() const {
  return sum(casts, [](const Cast& cast) { return cast.bytes; });
}

std::string PrecisionReport::why_nothing_low() const {
  if (any_low_precision()) return "";
  if (regions.calls == 0)
    return "no floating-point op ran while it was recorded; record the forward pass";
  const auto& device = regions.device_type;
  if (regions.inside == 0 && regions.inside_another > 0)
    return "the autocast region is for " + regions.other_device_type + ", but the ops ran on " +
           device + " tensors; make the region for the device type of the model";
  if (regions.inside == 0)
    return "no op ran in an enabled autocast region; put the forward pass into one: { const "
           "halfstep::Autocast autocast(device.type()); … }";
  const auto whose = regions.policies.empty()
                         ? "LibTorch's list for " + device
                         : "the region's policy (" + list(regions.policies) + ")";
  if (regions.low_rule == 0)
    return "none of the " + count(regions.inside, "op") + " in the region has a rule in " + whose +
           " that casts to 16 bits; see docs/op_policy.md for how to give them one";
  if (regions.low_rule_on_double == regions.low_rule)
    return "all " + count(regions.low_rule, "op") +
           " that autocast casts to 16 bits got float64 tensors, which it never casts; make model "
           "and data float32";
  if (regions.module_rules)
    return count(regions.low_rule, "op") + " would be cast to 16 bits by " + whose +
           ", but its rules by module decided otherwise";
  return count(regions.low_rule, "op") + " are cast to 16 bits by " + whose +
         ", but gave no 16-bit result, for a reason that is not recorded";
}

std::string PrecisionReport::text() const {
  auto text = headline("forward", forward) + tables(forward, /*by_module=*/true);
  if (!any_low_precision()) text += "nothing ran in 16 bits: " + why_nothing_low() + "\n";
  if (!backward.ops.empty() || !backward.casts.empty())
    text += headline("backward", backward) + tables(backward, /*by_module=*/false);
  if (!unmatched_ops.empty()) text += "rules that met no op call: " + list(unmatched_ops) + "\n";
  if (!unmatched_modules.empty())
    text += "rules by module that met no op call: " + list(unmatched_modules) + "\n";
  return text;
}

std::ostream& operator<<(std::ostream& stream, const PrecisionReport& report) {
  return stream << report.text();
}

}  // namespace halfstep::inspect
