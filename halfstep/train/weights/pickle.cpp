#include "halfstep/train/weights/pickle.h"

#include "halfstep/core/error.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <unordered_map>
#include <utility>

namespace halfstep::train {
namespace {

using Kind = PickleValue::Kind;

// The opcodes of protocols 2 to 5 that plain data, classes and functions take.
enum class Opcode : uint8_t {
  proto = 0x80,
  frame = 0x95,
  stop = '.',
  mark = '(',
  pop = '0',
  pop_mark = '1',
  dup = '2',
  none = 'N',
  newtrue = 0x88,
  newfalse = 0x89,
  binint = 'J',
  binint1 = 'K',
  binint2 = 'M',
  long1 = 0x8a,
  binfloat = 'G',
  binunicode = 'X',
  short_binunicode = 0x8c,
  binunicode8 = 0x8d,
  binstring = 'T',
  short_binstring = 'U',
  binbytes = 'B',
  short_binbytes = 'C',
  empty_tuple = ')',
  tuple = 't',
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  empty_list = ']',
  list = 'l',
  append = 'a',
  appends = 'e',
  empty_dict = '}',
  dict = 'd',
  setitem = 's',
  setitems = 'u',
  global = 'c',
  stack_global = 0x93,
  reduce = 'R',
  build = 'b',
  binpersid = 'Q',
  binget = 'h',
  long_binget = 'j',
  binput = 'q',
  long_binput = 'r',
  memoize = 0x94,
};

class Parser {
 public:
  Parser(std::string_view bytes, std::span<const std::string_view> allowed, const std::string& file)
      : bytes_(bytes), allowed_(allowed), file_(file) {}

  Pickle parse() {
    check(bytes_.size() <= kMaxPickle, "it must have at most ", kMaxPickle, " bytes, but has ",
          bytes_.size());
    check(opcode() == Opcode::proto, "it must begin with its protocol, but does not");
    const auto protocol = number(1);
    check(protocol >= 2 && protocol <= 5, "its protocol must be from 2 to 5, but is ", protocol);
    for (auto next = opcode(); next != Opcode::stop; next = opcode()) step(next);
    pickle_.root = pop();
    check(stack_.empty() && marks_.empty(), "it must hold one value, but holds more");
    return std::move(pickle_);
  }

 private:
  template <class... Parts>
  void check(bool condition, const Parts&... parts) const {
    HALFSTEP_CHECK_ENVIRONMENT(condition, "pickle", file_, ": ", parts..., " (at byte ", at_,
                               "); the file is damaged or not one that torch.save wrote: get it "
                               "again");
  }

  std::string_view take(uint64_t size) {
    check(size <= bytes_.size() - at_, "it must go on for ", size, " bytes, but has ",
          bytes_.size() - at_);
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  uint64_t number(uint64_t size) {
    uint64_t value = 0;
    const auto bytes = take(size);
    for (size_t i = bytes.size(); i-- > 0;)
      value = value << 8 | static_cast<unsigned char>(bytes[i]);
    return value;
  }
  Opcode opcode() { return static_cast<Opcode>(number(1)); }
  std::string_view line() {
    const auto end = bytes_.find('\n', at_);
    check(end != bytes_.npos, "a line must end, but does not");
    auto text = take(end + 1 - at_);
    text.remove_suffix(1);
    return text;
  }

  void push(uint32_t value) { stack_.push_back(value); }
  void push(PickleValue value) {
    pickle_.values.push_back(std::move(value));
    push(static_cast<uint32_t>(pickle_.values.size() - 1));
  }
  void push(Kind kind, int64_t integer = 0) {
    PickleValue value;
    value.kind = kind;
    value.integer = integer;
    push(std::move(value));
  }
  void push(Kind kind, std::string_view text) {
    PickleValue value;
    value.kind = kind;
    value.text = text;
    push(std::move(value));
  }
  void push(Kind kind, std::vector<uint32_t> items) {
    PickleValue value;
    value.kind = kind;
    value.items = std::move(items);
    push(std::move(value));
  }

  uint32_t top() const {
    check(stack_.size() > (marks_.empty() ? 0 : marks_.back()), "a value must be there to be used");
    return stack_.back();
  }
  uint32_t pop() {
    const auto value = top();
    stack_.pop_back();
    return value;
  }
  // The values above the last mark, which goes with them.
  std::vector<uint32_t> pop_to_mark() {
    check(!marks_.empty(), "a mark must be there to be used");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    marks_.pop_back();
    std::vector<uint32_t> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    return items;
  }
  std::vector<uint32_t> pop_some(size_t count) {
    std::vector<uint32_t> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  void add_to(Kind kind, const std::vector<uint32_t>& items) {
    auto& container = pickle_.values[top()];
    check(container.kind == kind && (kind != Kind::dict || items.size() % 2 == 0),
          "what is put into a list or dict must fit it, but does not");
    container.items.insert(container.items.end(), items.begin(), items.end());
  }

  void push_integer(uint64_t bits, unsigned bytes) {
    const unsigned shift = 64 - 8 * bytes;
    push(Kind::integer, bytes == 0 ? 0 : static_cast<int64_t>(bits << shift) >> shift);
  }
  void push_long() {
    const auto size = number(1);
    if (size <= 8) {
      push_integer(number(size), static_cast<unsigned>(size));
    } else {
      take(size);
      push(Kind::large);
    }
  }
  void push_real() {
    uint64_t bits = 0;
    for (const char byte : take(8)) bits = bits << 8 | static_cast<unsigned char>(byte);
    PickleValue value;
    value.kind = Kind::real;
    value.real = std::bit_cast<double>(bits);
    push(std::move(value));
  }

  void push_global(std::string_view module, std::string_view name) {
    const auto full = std::string(module) + "." + std::string(name);
    HALFSTEP_CHECK_ENVIRONMENT(
        std::find(allowed_.begin(), allowed_.end(), full) != allowed_.end(), "pickle", file_,
        ": it must hold tensors, texts, numbers and containers of these only, but holds a '",
        full.substr(0, 200),
        "', which could run code; load the file in Python, if you trust it, and save the state "
        "dict alone: torch.save(model.state_dict(), FILE)");
    push(Kind::global, full);
  }
  void push_call() {
    const auto arguments = pop();
    const auto function = pop();
    check(pickle_.at(function).kind == Kind::global && pickle_.at(arguments).kind == Kind::tuple,
          "a call must be of a class or function with a tuple, but is not");
    if (pickle_.at(function).text == "collections.OrderedDict" &&
        pickle_.at(arguments).items.empty())
      push(Kind::dict);
    else
      push(Kind::call, {function, arguments});
  }
  // Only the attributes of an OrderedDict (nn.Module's _metadata), which nobody asks for.
  void build() {
    const auto state = pop();
    check(pickle_.at(top()).kind == Kind::dict && pickle_.at(state).kind == Kind::dict,
          "attributes must be an OrderedDict's, but are not");
  }
  void get(uint64_t number) {
    const auto found = memo_.find(number);
    check(found != memo_.end(), "a value must be noted before it is used again, but ", number,
          " is not");
    push(found->second);
  }

  void step(Opcode next);
  bool step_plain(Opcode next);
  bool step_container(Opcode next);

  std::string_view bytes_;
  std::span<const std::string_view> allowed_;
  const std::string& file_;
  size_t at_ = 0;
  Pickle pickle_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint64_t, uint32_t> memo_;
};

bool Parser::step_plain(Opcode next) {
  switch (next) {
    case Opcode::none:
      push(Kind::none);
      break;
    case Opcode::newtrue:
      push(Kind::boolean, 1);
      break;
    case Opcode::newfalse:
      push(Kind::boolean, 0);
      break;
    case Opcode::binint:
      push_integer(number(4), 4);
      break;
    case Opcode::binint1:
      push(Kind::integer, static_cast<int64_t>(number(1)));
      break;
    case Opcode::binint2:
      push(Kind::integer, static_cast<int64_t>(number(2)));
      break;
    case Opcode::long1:
      push_long();
      break;
    case Opcode::binfloat:
      push_real();
      break;
    case Opcode::binunicode:
    case Opcode::binstring:
      push(Kind::text, take(number(4)));
      break;
    case Opcode::short_binunicode:
    case Opcode::short_binstring:
      push(Kind::text, take(number(1)));
      break;
    case Opcode::binunicode8:
      push(Kind::text, take(number(8)));
      break;
    case Opcode::binbytes:
      push(Kind::bytes, take(number(4)));
      break;
    case Opcode::short_binbytes:
      push(Kind::bytes, take(number(1)));
      break;
    default:
      return false;
  }
  return true;
}

bool Parser::step_container(Opcode next) {
  switch (next) {
    case Opcode::empty_tuple:
      push(Kind::tuple);
      break;
    case Opcode::tuple:
      push(Kind::tuple, pop_to_mark());
      break;
    case Opcode::tuple1:
      push(Kind::tuple, pop_some(1));
      break;
    case Opcode::tuple2:
      push(Kind::tuple, pop_some(2));
      break;
    case Opcode::tuple3:
      push(Kind::tuple, pop_some(3));
      break;
    case Opcode::empty_list:
      push(Kind::list);
      break;
    case Opcode::list:
      push(Kind::list, pop_to_mark());
      break;
    case Opcode::append:
      add_to(Kind::list, pop_some(1));
      break;
    case Opcode::appends:
      add_to(Kind::list, pop_to_mark());
      break;
    case Opcode::empty_dict:
      push(Kind::dict);
      break;
    case Opcode::dict: {
      auto items = pop_to_mark();
      push(Kind::dict);
      add_to(Kind::dict, items);
      break;
    }
    case Opcode::setitem:
      add_to(Kind::dict, pop_some(2));
      break;
    case Opcode::setitems:
      add_to(Kind::dict, pop_to_mark());
      break;
    default:
      return false;
  }
  return true;
}

void Parser::step(Opcode next) {
  if (step_plain(next) || step_container(next)) return;
  switch (next) {
    case Opcode::frame:
      take(8);
      break;
    case Opcode::mark:
      marks_.push_back(stack_.size());
      break;
    case Opcode::pop:
      pop();
      break;
    case Opcode::pop_mark:
      pop_to_mark();
      break;
    case Opcode::dup:
      push(top());
      break;
    case Opcode::global: {
      const auto module = line();
      push_global(module, line());
      break;
    }
    case Opcode::stack_global: {
      const auto names = pop_some(2);
      for (const auto name : names)
        check(pickle_.at(name).kind == Kind::text, "a class's name must be a text, but is none");
      push_global(pickle_.at(names[0]).text, pickle_.at(names[1]).text);
      break;
    }
    case Opcode::reduce:
      push_call();
      break;
    case Opcode::build:
      build();
      break;
    case Opcode::binpersid:
      push(Kind::persistent, pop_some(1));
      break;
    case Opcode::binget:
      get(number(1));
      break;
    case Opcode::long_binget:
      get(number(4));
      break;
    case Opcode::binput:
      memo_[number(1)] = top();
      break;
    case Opcode::long_binput:
      memo_[number(4)] = top();
      break;
    case Opcode::memoize: {
      const auto value = top();
      memo_[memo_.size()] = value;
      break;
    }
    default:
      check(false, "an opcode must be one of plain data, but is ", static_cast<int>(next));
  }
}

}  // namespace

Pickle parse_pickle(std::string_view bytes, std::span<const std::string_view> allowed,
                    const std::string& file) {
  return Parser(bytes, allowed, file).parse();
}

}  // namespace halfstep::train
