// A PrecisionPlan as text and back.
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/graph/plan/line_reader.h"
#include "halfstep/graph/plan/precision_plan.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

namespace halfstep {

namespace {

constexpr std::string_view kTitle = "halfstep precision plan 1, ";

/// Writes and reads values by the names the text has for them: results are numbered from 0.
class Names {
 public:
  explicit Names(const OpGraph& graph) {
    while (first_result_ < graph.values.size() && !graph.values[first_result_].producer)
      ++first_result_;
  }
  std::string of(const OpGraph& graph, size_t value) const {
    return value < first_result_ ? detail::quote(graph.values[value].name)
                                 : "%" + std::to_string(value - first_result_);
  }

 private:
  size_t first_result_ = 0;
};

using detail::LineReader;

/// `"fc.bias", %1!, %0)`
/// `known`: how many values there are above.
void read_operands(LineReader& line, size_t known, const std::map<std::string, size_t>& outside,
                   PlanNode& node) {
  if (line.take(")")) return;
  do {
    PlanNode::Operand operand;
    if (line.peek() == '"') {
      const auto name = line.quoted();
      const auto found = outside.find(name);
      if (found == outside.end()) line.fail("an operand must be one of what the plan reads", name);
      operand.value = found->second;
    } else {
      line.expect("%");
      const auto number = line.number();
      if (number >= known - outside.size())
        line.fail("an operand must be a result of a node above", "%" + std::to_string(number));
      operand.value = outside.size() + number;
    }
    operand.stays_float32 = line.take("!");
    node.operands.push_back(operand);
  } while (line.take(","));
  line.expect(")");
}

/// `%2 float32, %3 int64 =`
void read_results(LineReader& line, OpGraph& graph, size_t outside, PlanNode& node) {
  do {
    line.expect("%");
    const auto number = line.number();
    if (number != graph.values.size() - outside)
      line.fail("results must be numbered from 0 in their order", "%" + std::to_string(number));
    node.results.push_back(graph.values.size());
    graph.values.push_back({"", line.word(), graph.nodes.size()});
  } while (line.take(","));
  line.expect("=");
}

PlanNode read_node(LineReader& line, OpGraph& graph, const std::map<std::string, size_t>& outside) {
  const auto number = line.number();
  if (number != graph.nodes.size())
    line.fail("nodes must be numbered from 0 in their order", std::to_string(number));
  PlanNode node;
  const auto color = line.word();
  try {
    node.color = parse_op_color(color);
  } catch (const UsageError&) {
    line.fail("a color must be white, gray, black, clear or unlisted", color);
  }
  line.expect(":");
  const auto known = graph.values.size();  // without its own results
  if (line.peek() == '%') read_results(line, graph, outside.size(), node);
  node.op = line.word();
  line.expect("(");
  read_operands(line, known, outside, node);
  if (line.take("with ")) {
    node.with = line.number();
    if (*node.with >= graph.nodes.size())
      line.fail("a node must share memory with one above", std::to_string(*node.with));
  }
  node.fixed = line.take("fixed");
  if (line.take("in ")) node.module = line.quoted();
  line.end();
  return node;
}

}  // namespace

std::string PrecisionPlan::to_string() const {
  const Names names(graph_);
  std::ostringstream out;
  out << kTitle << dtype_name(dtype_) << '\n';
  for (const auto& value : graph_.values) {
    if (!value.producer) out << "reads " << detail::quote(value.name) << ' ' << value.type << '\n';
  }
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const auto& node = graph_.nodes[i];
    out << i << ' ' << node.color << ": ";
    const char* separator = "";
    for (const auto result : node.results) {
      out << separator << names.of(graph_, result) << ' ' << graph_.values[result].type;
      separator = ", ";
    }
    out << (node.results.empty() ? "" : " = ") << node.op << '(';
    separator = "";
    for (const auto& operand : node.operands) {
      out << separator << names.of(graph_, operand.value) << (operand.stays_float32 ? "!" : "");
      separator = ", ";
    }
    out << ')';
    if (node.with) out << " with " << *node.with;
    if (node.fixed) out << " fixed";
    if (!node.module.empty()) out << " in " << detail::quote(node.module);
    out << "  # " << dtype_name(low_[i] ? dtype_ : c10::kFloat) << '\n';
  }
  for (const auto& cast : casts()) {
    out << "# cast of " << names.of(graph_, cast.value) << " to " << dtype_name(cast.dtype)
        << " for";
    const char* separator = " ";
    for (const auto node : cast.nodes) {
      out << separator << node;
      separator = ", ";
    }
    out << '\n';
  }
  return out.str();
}

PrecisionPlan PrecisionPlan::parse(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  std::string content;
  size_t number = 0;
  std::optional<c10::ScalarType> dtype;
  OpGraph graph;
  std::map<std::string, size_t> outside;
  while (std::getline(lines, content)) {
    LineReader line(content, name, ++number);
    if (line.is_empty()) continue;
    if (!dtype) {
      line.expect(kTitle);
      const auto written = line.word();
      if (written != "float16" && written != "bfloat16")
        line.fail("the dtype must be float16 or bfloat16", written);
      dtype = parse_dtype(written);
      line.end();
    } else if (line.take("reads ")) {
      if (!graph.nodes.empty()) line.fail("what a plan reads must stand above its nodes", "reads");
      const auto read = line.quoted();
      if (!outside.emplace(read, graph.values.size()).second)
        line.fail("what a plan reads must be named once", read);
      graph.values.push_back({read, line.word(), std::nullopt});
      line.end();
    } else {
      auto node = read_node(line, graph, outside);
      graph.nodes.push_back(std::move(node));
    }
  }
  HALFSTEP_CHECK_USAGE(dtype, "PrecisionPlan", name, " must begin with \"", kTitle,
                       "\" and a dtype, but is empty; save a plan there");
  return {std::move(graph), *dtype};
}

void PrecisionPlan::save(const std::string& path) const {
  std::ofstream file(path);
  file << to_string() << std::flush;
  HALFSTEP_CHECK_ENVIRONMENT(file, "PrecisionPlan::save", "'", path,
                             "' must be a file that can be written, but the system says: ",
                             std::strerror(errno), "; check the folder and the disk");
}

PrecisionPlan PrecisionPlan::load(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  HALFSTEP_CHECK_ENVIRONMENT(file.good() || (file.is_open() && file.eof()), "PrecisionPlan::load",
                             "'", path, "' must be a file that can be read, but the system says: ",
                             std::strerror(errno), "; check its name");
  return parse(text.str(), path);
}

}  // namespace halfstep
