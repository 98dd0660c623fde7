#include "halfstep/dist/slurm_nodelist.h"

#include "halfstep/core/error.h"

#include <charconv>
#include <cstdint>
#include <iterator>

namespace halfstep::dist {

namespace {

constexpr size_t max_hosts = 65536;
constexpr size_t max_name_length = 255;
// More would not fit the number below.
constexpr size_t max_digits = 18;

// "[launch] where must hold …, but got 'list'; …"
struct List {
  const char* name;
  const char* form;
  std::string_view text;

  [[noreturn]] void fail(const std::string& rule) const {
    halfstep::detail::raise<UsageError>("launch", name, " must be a list such as ", form, " (",
                                        rule, "), but got '", text.substr(0, 200),
                                        text.size() > 200 ? "…" : "",
                                        "'; start the processes by srun, which sets it");
  }

  uint64_t number(std::string_view digits) const {
    uint64_t value = 0;
    const auto end = digits.data() + digits.size();
    const auto result = std::from_chars(digits.data(), end, value);
    if (digits.empty() || digits.size() > max_digits || result.ec != std::errc() ||
        result.ptr != end)
      fail("a number has 1 to 18 digits");
    return value;
  }
};

// The parts of `text` between commas that are not in brackets.
std::vector<std::string_view> split_at_commas(const List& list, std::string_view text) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  bool inside = false;
  for (size_t i = 0; i <= text.size(); ++i) {
    const char c = i < text.size() ? text[i] : ',';
    if (i == text.size() && inside) list.fail("each [ has its ]");
    if (c == '[' || c == ']') {
      if (inside == (c == '[')) list.fail("brackets come in pairs");
      inside = !inside;
    } else if (c == ',' && !inside) {
      parts.push_back(text.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  return parts;
}

std::string padded(uint64_t number, size_t width) {
  auto text = std::to_string(number);
  return text.size() < width ? std::string(width - text.size(), '0') + text : text;
}

// The numbers of "08-10,12", as they are written.
std::vector<std::string> expand_ranges(const List& list, std::string_view ranges) {
  std::vector<std::string> numbers;
  for (const auto range : split_at_commas(list, ranges)) {
    const auto dash = range.find('-');
    const auto first_text = range.substr(0, dash);
    const uint64_t first = list.number(first_text);
    const uint64_t last = dash == range.npos ? first : list.number(range.substr(dash + 1));
    if (last < first) list.fail("a range counts upwards");
    if (last - first >= max_hosts - numbers.size()) list.fail("at most 65536 hosts");
    for (uint64_t number = first; number <= last; ++number)
      numbers.push_back(padded(number, first_text.size()));
  }
  return numbers;
}

// The hosts of one name with its brackets; the last bracket counts fastest.
std::vector<std::string> expand_name(const List& list, std::string_view name) {
  if (name.empty()) list.fail("no name is empty");
  std::vector<std::string> hosts{""};
  while (!name.empty()) {
    const auto open = name.find('[');
    for (auto& host : hosts) host += name.substr(0, open);
    if (hosts.back().size() > max_name_length) list.fail("a name has at most 255 characters");
    if (open == name.npos) break;
    const auto close = name.find(']', open);
    const auto numbers = expand_ranges(list, name.substr(open + 1, close - open - 1));
    if (hosts.size() * numbers.size() > max_hosts) list.fail("at most 65536 hosts");
    std::vector<std::string> longer;
    longer.reserve(hosts.size() * numbers.size());
    for (const auto& host : hosts)
      for (const auto& number : numbers) longer.push_back(host + number);
    hosts = std::move(longer);
    name.remove_prefix(close + 1);
  }
  return hosts;
}

}  // namespace

std::vector<std::string> expand_nodelist(std::string_view text) {
  const List list{"the node list of Slurm", "'gpu[01-03,7],login'", text};
  if (text.find_first_of(" \t\r\n") != text.npos) list.fail("no space stands in it");
  std::vector<std::string> hosts;
  for (const auto name : split_at_commas(list, text)) {
    auto more = expand_name(list, name);
    if (hosts.size() + more.size() > max_hosts) list.fail("at most 65536 hosts");
    hosts.insert(hosts.end(), std::make_move_iterator(more.begin()),
                 std::make_move_iterator(more.end()));
  }
  return hosts;
}

std::vector<int> expand_tasks_per_node(std::string_view text) {
  const List list{"SLURM_TASKS_PER_NODE", "'2(x3),1'", text};
  std::vector<int> tasks;
  for (auto part : split_at_commas(list, text)) {
    uint64_t times = 1;
    const auto open = part.find("(x");
    if (open != part.npos) {
      if (!part.ends_with(')')) list.fail("each ( has its )");
      times = list.number(part.substr(open + 2, part.size() - open - 3));
    }
    const auto count = list.number(part.substr(0, open));
    if (count < 1 || count > 1'000'000 || times < 1) list.fail("no number is 0 or above a million");
    if (times > max_hosts - tasks.size()) list.fail("at most 65536 nodes");
    tasks.insert(tasks.end(), times, static_cast<int>(count));
  }
  return tasks;
}

}  // namespace halfstep::dist
