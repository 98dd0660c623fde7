#include "halfstep/train/config/parse.h"

#include "halfstep/core/error.h"
#include "halfstep/train/config/expression.h"

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

namespace halfstep::train::detail {
namespace {

using Kind = ConfigNode::Kind;

// Length of the well-formed UTF-8 character at the front, 0 if there is none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  // Overlong forms, surrogates and code points past the last one.
  const unsigned char second = byte(1);
  if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
      (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F))
    return 0;
  return length;
}

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
}

// yaml-cpp skips lines that begin with % in silence.
void check_directives(const std::string& text, const Place& start) {
  Place place = start;
  bool line_begins = true;
  for (const char c : text) {
    if (c == '%' && line_begins)
      raise_at(place,
               "a line must not begin with %; comments begin with #, directives are refused");
    line_begins = c == '\n';
    if (line_begins && place.line > 0) ++place.line;
  }
}

// Where a scalar that begins at `begin` ends, or npos for a quoted one without its closing quote.
size_t scalar_end(std::string_view text, size_t begin, size_t plain_length) {
  const char quote = begin < text.size() ? text[begin] : '\0';
  if (quote != '\'' && quote != '"') return begin + plain_length;
  for (size_t i = begin + 1; i < text.size(); ++i) {
    const bool escaped = quote == '"' ? text[i] == '\\' : text.substr(i, 2) == "''";
    if (escaped) {
      ++i;
    } else if (text[i] == quote) {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

// Builds the tree, and refuses what yaml-cpp lets pass: duplicate keys, a quote that never closes
// (the rest of the file becomes the value), a key without its colon (its value becomes null) or its
// value (the next line becomes it).
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, std::vector<Expression> expressions, std::string file,
              bool lines, ConfigPathPtr path)
      : text_(text),
        expressions_(std::move(expressions)),
        file_(std::move(file)),
        lines_(lines),
        path_(std::move(path)) {}

  std::shared_ptr<ConfigNode> root() const { return root_; }
  Place place(const YAML::Mark& mark) const { return {file_, lines_ ? mark.line + 1 : 0}; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) refuse(mark, "must hold one YAML document, but a second one begins here");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(Kind::null, mark, "", anchor);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    if (anchor != YAML::NullAnchor) refuse_anchor(mark);
    const size_t end = scalar_end(text_, static_cast<size_t>(mark.pos), value.size());
    if (end == std::string_view::npos) refuse(mark, "a quoted text begins here and never ends");
    // yaml-cpp's tags: "?" for a plain scalar, "!" for a quoted or a block one.
    if (expects_key()) {
      take_key(mark, value, tag == "!", end);
      return;
    }
    check_indent(mark);
    const auto node = add(Kind::scalar, mark, tag, anchor);
    node->quoted = tag == "!";
    if (lines_) node->pieces = pieces(mark, value, end);
    if (node->pieces.empty()) node->text = value;
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value style) override {
    open(add(Kind::list, mark, tag, anchor), mark, style);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    open(add(Kind::mapping, mark, tag, anchor), mark, style);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  struct Key {
    std::string text;
    Place place;
    int line;
  };
  struct Open {
    std::shared_ptr<ConfigNode> node;
    bool is_flow;
    int column;
    std::optional<Key> key;              // of a mapping whose value comes next
    std::map<std::string, int> lines{};  // of a mapping's keys so far
  };

  [[noreturn]] void refuse(const YAML::Mark& mark, const std::string& rule) const {
    raise_at(place(mark), rule);
  }
  [[noreturn]] void refuse_anchor(const YAML::Mark& mark) const {
    refuse(mark, "anchors and aliases (&name, *name) are not supported; write the value out");
  }
  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    const auto at = static_cast<size_t>(mark.pos);
    if (at < text_.size() && text_[at] == '!')
      refuse(mark, "tags are not supported, but got '" + tag + "'; leave it out");
  }

  // The pieces of a scalar that ends at `end` if it is quoted; none where it has no expression.
  std::vector<ConfigNode::Piece> pieces(const YAML::Mark& mark, const std::string& value,
                                        size_t end) const {
    const auto begin = static_cast<size_t>(mark.pos);
    const char first = begin < text_.size() ? text_[begin] : '\0';
    if ((first == '|' || first == '>') && value.find(hidden) != value.npos)
      refuse(mark, "{{...}} must not stand in a block text (| or >); write it in quotes");
    // The others have neither comments nor escapes in which a hidden character could stand.
    const bool escapes = first == '"';
    auto next = std::lower_bound(expressions_.begin(), expressions_.end(), begin,
                                 [](const auto& e, size_t at) { return e.begin < at; });
    const auto here = [&] { return next != expressions_.end() && (!escapes || next->begin < end); };
    std::vector<ConfigNode::Piece> found;
    size_t at = 0;
    bool any = false;
    while (here()) {
      const size_t hole = value.find(hidden, at);
      if (hole == value.npos) break;
      any = true;
      if (hole > at) found.push_back({value.substr(at, hole - at), false});
      if (value.find_first_not_of(hidden, hole) < hole + next->length ||
          hole + next->length > value.size())
        refuse(mark, "a text with {{...}} must not have the escape \\x01");
      found.push_back({next->content, true});
      at = hole + next->length;
      ++next;
    }
    if (at < value.size()) found.push_back({value.substr(at), false});
    if (escapes && any && (here() || value.find(hidden, at) != value.npos))
      refuse(mark, "a text with {{...}} must not have the escape \\x01");
    for (const auto& piece : found)
      if (!piece.is_expression && piece.text.find("{{") != piece.text.npos)
        refuse(mark, "{{ must be closed by }} on its line; write {{'{{'}} for the two characters");
    if (!any) found.clear();
    return found;
  }

  // yaml-cpp takes the next line for the value of a key without one.
  void check_indent(const YAML::Mark& mark) const {
    if (open_.empty() || !open_.back().key || open_.back().is_flow) return;
    if (mark.line != open_.back().key->line && mark.column <= open_.back().column)
      refuse(mark, "the value of '" + open_.back().key->text + "' must be indented below its key");
  }

  bool expects_key() const {
    return !open_.empty() && open_.back().node->kind == Kind::mapping && !open_.back().key;
  }

  void take_key(const YAML::Mark& mark, const std::string& key, bool quoted, size_t end) {
    if (key == "<<" && !quoted)
      refuse(mark, "merge keys (<<) are not supported; write the keys out");
    if (lines_ && key.find(hidden) != key.npos)
      refuse(mark, "a key must have neither {{...}} nor control characters");
    check_key(key, place(mark));
    const size_t next = text_.find_first_not_of(" \t", end);
    if (next == std::string_view::npos || text_[next] != ':')
      refuse(mark, "key '" + key + "' must be followed by a colon and its value" +
                       (open_.back().is_flow ? "; is a bracket or brace left open?" : ""));
    Open& mapping = open_.back();
    const auto [first, is_new] = mapping.lines.emplace(key, mark.line + 1);
    if (!is_new)
      refuse(mark, "key '" + key + "' is given twice" + in_path(mapping.node->path) +
                       (lines_ ? ", first on line " + std::to_string(first->second) : "") +
                       "; keep one");
    mapping.key = Key{key, place(mark), mark.line};
  }

  std::shared_ptr<ConfigNode> add(Kind kind, const YAML::Mark& mark, const std::string& tag,
                                  YAML::anchor_t anchor) {
    check_tag(mark, tag);
    if (anchor != YAML::NullAnchor) refuse_anchor(mark);
    if (expects_key()) refuse(mark, "a key must be a text; is a bracket or brace left open?");
    auto node = std::make_shared<ConfigNode>();
    node->kind = kind;
    node->place = place(mark);
    if (open_.empty()) {
      node->path = path_;
      root_ = node;
      return node;
    }
    Open& parent = open_.back();
    if (parent.node->kind == Kind::list) {
      node->path = below(parent.node->path, std::to_string(parent.node->items.size()));
      parent.node->items.push_back(node);
    } else {
      node->path = below(parent.node->path, parent.key->text);
      parent.node->entries.push_back({parent.key->text, parent.key->place, node});
      parent.key.reset();
    }
    return node;
  }

  void open(const std::shared_ptr<ConfigNode>& node, const YAML::Mark& mark,
            YAML::EmitterStyle::value style) {
    if (open_.size() == max_depth)
      refuse(mark, "is nested deeper than " + std::to_string(max_depth) + " levels");
    open_.push_back({node, style == YAML::EmitterStyle::Flow, mark.column, std::nullopt});
  }

  std::string_view text_;
  std::vector<Expression> expressions_;
  std::string file_;
  bool lines_;
  ConfigPathPtr path_;
  int documents_ = 0;
  std::shared_ptr<ConfigNode> root_;
  std::vector<Open> open_;
};

}  // namespace

void check_key(const std::string& key, const Place& place) {
  constexpr size_t max_key_bytes = 200;  // yaml-cpp reads a key of 1024 bytes, escapes included
  if (key.empty()) raise_at(place, "a key must not be empty");
  if (key.size() > max_key_bytes)
    raise_at(place, "a key must have at most ", max_key_bytes, " bytes, but got ", key.size());
  if (std::any_of(key.begin(), key.end(), is_control))
    raise_at(place, "a key must have no control characters");
  if (key.find("{{") != key.npos) raise_at(place, "a key must not have {{, but got '", key, "'");
}

// yaml-cpp replaces malformed UTF-8 and takes byte 4 for the end of the text, in silence.
void check_characters(const std::string& text, const Place& start) {
  Place place = start;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t length = utf8_length(rest);
    if (length == 0) raise_at(place, "must be UTF-8 text, but is not");
    const char c = rest[0];
    if (is_control(c) && c != '\n' && c != '\r' && c != '\t')
      raise_at(place, "must be text, but got control character ", static_cast<int>(c),
               "; write it as an escape in double quotes");
    if (c == '\n' && place.line > 0) ++place.line;
    rest.remove_prefix(length);
  }
}

std::shared_ptr<ConfigNode> parse_yaml(const std::string& text, const std::string& file, bool lines,
                                       const ConfigPathPtr& path) {
  const Place start{file, lines ? 1 : 0};
  if (text.size() > max_yaml_bytes)
    raise_at({file}, "must have at most ", max_yaml_bytes, " bytes, but got more");
  check_characters(text, start);
  check_directives(text, start);
  // yaml-cpp's positions don't count the byte order mark.
  std::string body = text.starts_with("\xEF\xBB\xBF") ? text.substr(3) : text;
  auto expressions = lines ? hide_expressions(body) : std::vector<Expression>{};
  TreeBuilder builder(body, std::move(expressions), file, lines, path);
  try {
    std::istringstream stream(body);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {}
  } catch (const YAML::Exception& error) {
    const Place place = error.mark.is_null() ? start : builder.place(error.mark);
    raise_at(place, "must be YAML, but: ", error.msg);
  }
  return builder.root();
}

}  // namespace halfstep::train::detail
