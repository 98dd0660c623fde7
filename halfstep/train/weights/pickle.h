#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Python's pickles as plain data. Nothing is imported or called: what a pickle would call is
/// written down as such. No LibTorch here, so that it can be fuzzed alone.
namespace halfstep::train {

/// One value; others are named by their number.
struct PickleValue {
  /// What a value is, and which of the members below holds it.
  enum class Kind : uint8_t {
    none,
    boolean,     ///< integer: 0 or 1
    integer,     ///< integer
    large,       ///< an integer beyond int64; its value is not kept
    real,        ///< real
    text,        ///< text
    bytes,       ///< text
    tuple,       ///< items
    list,        ///< items
    dict,        ///< items: key, value, key, value …; collections.OrderedDict too
    global,      ///< text: "module.name" of a class or function
    call,        ///< items: the global, the tuple of its arguments
    persistent,  ///< items: the id of something that lies outside the pickle
  };
  Kind kind = Kind::none;
  int64_t integer = 0;
  double real = 0;
  std::string text;
  std::vector<uint32_t> items;
};

/// A whole pickle. Values may hold each other in any shape, circles too: walk it to a fixed depth.
struct Pickle {
  std::vector<PickleValue> values;
  uint32_t root = 0;

  /// The value of a number. Throws std::out_of_range.
  const PickleValue& at(uint32_t number) const { return values.at(number); }
};

/// The largest pickle that is read: the names and shapes of some 100,000 tensors.
constexpr size_t kMaxPickle = size_t{16} << 20;

/// Reads a pickle of protocol 2 to 5 with these classes and functions in it ("module.name") and no
/// other; of what they would do, only collections.OrderedDict() is done. Takes memory for some 100
/// bytes a byte of the pickle. `file` stands for it in messages.
///
/// Throws EnvironmentError for a pickle with another class or function, which the message names, a
/// damaged one, and one of more than kMaxPickle bytes.
Pickle parse_pickle(std::string_view bytes, std::span<const std::string_view> allowed,
                    const std::string& file);

}  // namespace halfstep::train
