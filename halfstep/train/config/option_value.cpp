#include "halfstep/train/config/option_value.h"

#include "halfstep/train/config/inherit.h"
#include "halfstep/train/config/parse.h"
#include "halfstep/train/config/scalar.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace halfstep::train::detail {
namespace {

using Kind = ConfigNode::Kind;
using NodePtr = std::shared_ptr<ConfigNode>;

char closing(char opening) {
  return opening == '(' ? ')' : opening == '[' ? ']' : '}';
}

bool is_word(std::string_view text, std::string_view word) {
  return std::equal(text.begin(), text.end(), word.begin(), word.end(), [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == b;
  });
}

// Where MMEngine's grammar and YAML's disagree, docs/config.md says which holds.
class OptionParser {
 public:
  OptionParser(std::string_view text, const Place& place) : text_(text), place_(place) {}

  NodePtr parse(const ConfigPathPtr& path) {
    skip_blanks();
    if (done()) raise_at(place_, "must have a value; write null for none, '' for an empty text");
    const size_t begin = at_;
    NodePtr only = value(path);
    if (done()) return only;
    if (text_[at_] != ',') refuse_rest();
    auto list = make(Kind::list, path);
    at_ = begin;
    items(*list, '\0');
    return list;
  }

 private:
  [[noreturn]] void refuse_rest() const {
    if (text_[at_] == ')' || text_[at_] == ']') refuse_brackets();
    raise_at(place_, "must be one value or values between commas, but got '",
             std::string(text_.substr(at_)), "' after one; put a text in quotes");
  }
  [[noreturn]] void refuse_brackets() const {
    raise_at(place_, "must have balanced brackets, but got '", std::string(text_),
             "'; put a text in quotes");
  }

  bool done() const { return at_ >= text_.size(); }
  void skip_blanks() { at_ = std::min(text_.find_first_not_of(" \t", at_), text_.size()); }

  NodePtr make(Kind kind, const ConfigPathPtr& path) const {
    auto node = std::make_shared<ConfigNode>();
    node->kind = kind;
    node->place = place_;
    node->path = path;
    return node;
  }

  // Items up to a closing bracket, or to the end where that is '\0'.
  void items(ConfigNode& list, char end) {
    const auto at_end = [&] { return end == '\0' ? done() : !done() && text_[at_] == end; };
    skip_blanks();
    while (!at_end()) {
      if (done()) refuse_brackets();
      if (text_[at_] == ',')
        raise_at(place_, "an element must have a value; write null for none, '' for an empty text");
      list.items.push_back(value(below(list.path, std::to_string(list.items.size()))));
      if (at_end()) break;
      if (done()) refuse_brackets();
      if (text_[at_] != ',') refuse_rest();
      ++at_;
      skip_blanks();
    }
    if (end != '\0') ++at_;
  }

  // One value and the blanks after it.
  NodePtr value(const ConfigPathPtr& path) {
    const char first = text_[at_];
    NodePtr node;
    if (first == '[' || first == '(') {
      if (++depth_ > max_depth) raise_at(place_, "is nested deeper than ", max_depth, " levels");
      node = make(Kind::list, path);
      ++at_;
      items(*node, closing(first));
      --depth_;
    } else if (first == '{') {
      node = yaml(end_of_mapping(), path);
    } else if (first == '\'' || first == '"') {
      node = yaml(end_of_quotes(at_), path);
    } else {
      return plain(path);
    }
    skip_blanks();
    return node;
  }

  NodePtr yaml(size_t end, const ConfigPathPtr& path) {
    const std::string text(text_.substr(at_, end - at_));
    at_ = end;
    auto node = parse_yaml(text, place_.file, false, path);
    refuse_reserved_keys(*node);
    return node;
  }

  size_t end_of_quotes(size_t begin) const {
    const char quote = text_[begin];
    for (size_t i = begin + 1; i < text_.size(); ++i) {
      const bool pair = quote == '\'' && text_.substr(i, 2) == "''";
      if (pair || (quote == '"' && text_[i] == '\\'))
        ++i;
      else if (text_[i] == quote)
        return i + 1;
    }
    raise_at(place_, "a quoted text must end with its quote, but got '", std::string(text_), "'");
  }

  size_t end_of_mapping() const {
    std::string open;
    for (size_t i = at_; i < text_.size(); ++i) {
      const char c = text_[i];
      const bool token =
          i == at_ || std::string_view("{[,: \t").find(text_[i - 1]) != std::string_view::npos;
      if (token && (c == '\'' || c == '"')) {
        i = end_of_quotes(i) - 1;
      } else if (c == '{' || c == '[') {
        open += closing(c);
      } else if (c == '}' || c == ']') {
        if (open.back() != c) refuse_brackets();
        open.pop_back();
        if (open.empty()) return i + 1;
      }
    }
    refuse_brackets();
  }

  // A text without quotes: up to a comma or a bracket that it didn't open.
  NodePtr plain(const ConfigPathPtr& path) {
    const size_t begin = at_;
    std::string open;
    for (; !done(); ++at_) {
      const char c = text_[at_];
      if (c == '(' || c == '[') {
        open += closing(c);
      } else if (c == ')' || c == ']') {
        if (open.empty()) break;
        if (open.back() != c) refuse_brackets();
        open.pop_back();
      } else if (c == ',' && open.empty()) {
        break;
      }
    }
    if (!open.empty() || (!done() && text_[at_] != ',' && depth_ == 0)) refuse_brackets();
    std::string_view text = text_.substr(begin, at_ - begin);
    text = text.substr(0, text.find_last_not_of(" \t") + 1);
    return typed(text, path);
  }

  NodePtr typed(std::string_view text, const ConfigPathPtr& path) const {
    if (text == "None" || is_null(text)) return make(Kind::null, path);
    auto node = make(Kind::scalar, path);
    node->text = text;
    for (const char* word : {"true", "false"})
      if (is_word(text, word)) node->text = word;
    return node;
  }

  std::string_view text_;
  const Place& place_;
  size_t at_ = 0;
  size_t depth_ = 0;
};

}  // namespace

std::shared_ptr<ConfigNode> parse_option_value(const std::string& text, const Place& place,
                                               const ConfigPathPtr& path) {
  if (text.size() > max_yaml_bytes)
    raise_at(place, "must have at most ", max_yaml_bytes, " bytes, but got more");
  check_characters(text, place);
  if (text.find_first_of("\r\n") != text.npos)
    raise_at(place, "must be one line; write a line end as \\n in double quotes");
  return OptionParser(text, place).parse(path);
}

}  // namespace halfstep::train::detail
