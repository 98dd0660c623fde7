#include "halfstep/train/loop/precision_json.h"

#include "halfstep/core/dtype.h"

namespace halfstep::train {

namespace {

nlohmann::ordered_json pass_to_json(const inspect::PrecisionReport::Pass& pass) {
  auto ops = nlohmann::ordered_json::array();
  for (const auto& op : pass.ops)
    ops.push_back({{"module", op.module},
                   {"op", op.op},
                   {"dtype", dtype_name(op.dtype)},
                   {"calls", op.calls}});
  auto casts = nlohmann::ordered_json::array();
  for (const auto& cast : pass.casts)
    casts.push_back({{"module", cast.module},
                     {"from", dtype_name(cast.from)},
                     {"to", dtype_name(cast.to)},
                     {"casts", cast.casts},
                     {"bytes", cast.bytes}});
  return {{"ops", std::move(ops)}, {"casts", std::move(casts)}};
}

}  // namespace

nlohmann::ordered_json to_json(const inspect::PrecisionReport& report) {
  const auto& regions = report.regions;
  nlohmann::ordered_json json{{"forward", pass_to_json(report.forward)},
                              {"backward", pass_to_json(report.backward)},
                              {"unmatched_ops", report.unmatched_ops},
                              {"unmatched_modules", report.unmatched_modules},
                              {"regions",
                               {{"calls", regions.calls},
                                {"inside", regions.inside},
                                {"inside_another", regions.inside_another},
                                {"low_rule", regions.low_rule},
                                {"low_rule_on_double", regions.low_rule_on_double},
                                {"device_type", regions.device_type},
                                {"policies", regions.policies},
                                {"module_rules", regions.module_rules}}}};
  if (!report.any_low_precision()) json["why_nothing_low"] = report.why_nothing_low();
  return json;
}

}  // namespace halfstep::train
