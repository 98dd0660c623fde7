// What a Graph tells: its debug levels, its program, itself.
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/graph_base.h"

namespace halfstep {

void GraphBase::debug(int level, std::ostream& out) {
  HALFSTEP_CHECK_USAGE(level >= -1 && level <= 3, "Graph::debug",
                       "the level must be from -1 to 3, but got ", level,
                       "; use 1 for the recorded program");
  debug_level_ = level;
  debug_out_ = &out;
}

std::string GraphBase::program() const {
  if (recordings_.empty()) return "";
  const auto& last = *recordings_.back();
  if (last.replay) return last.replay->program().to_string();
  return last.first ? last.first->to_string() : "";
}

PrecisionPlan GraphBase::precision_plan() const {
  const bool has_one = !recordings_.empty() && recordings_.back()->plan;
  return has_one ? *recordings_.back()->plan : PrecisionPlan();
}

void GraphBase::tell(const std::string& reason) {
  if (!last_reason_.empty()) return;  // why there is no recording has been said
  last_reason_ = reason;
  if (debug_level_ >= 0) *debug_out_ << "[Graph] records a step: " << reason << '\n';
}

std::ostream& operator<<(std::ostream& out, const GraphBase& graph) {
  const auto& config = graph.config();
  out << static_cast<const torch::nn::Module&>(graph) << "\nruns in ";
  if (!config.amp_enabled())
    out << "the dtypes of its tensors";
  else if (config.amp_dtype())
    out << dtype_name(*config.amp_dtype()) << " where amp allows";
  else
    out << "16 bits where amp allows";
  out << ", " << graph.recorded_steps() << " steps recorded, " << graph.replayed_steps()
      << " replayed\n";
  const auto program = graph.program();
  return out << (program.empty() ? "nothing is recorded yet\n" : program);
}

}  // namespace halfstep
