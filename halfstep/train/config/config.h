#pragma once
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace halfstep::train {

namespace detail {
struct ConfigNode;
}

/// The types a config value can be read as.
template <class T>
concept ConfigValue =
    std::same_as<T, bool> || std::same_as<T, int64_t> || std::same_as<T, double> ||
    std::same_as<T, std::string> || std::same_as<T, std::vector<int64_t>> ||
    std::same_as<T, std::vector<double>> || std::same_as<T, std::vector<std::string>>;

/// One mapping of a YAML config, read strictly.
///
/// Whoever reads a key thereby declares it allowed; `finish()` then refuses every key nobody read,
/// with its file and line, the allowed keys and the nearest spelling. Values are typed: `"5"`
/// (quoted) is no number, `5` is no text, `yes` is no bool, `2.0` is no integer, `.inf` is no
/// double. Defaults live at the place that reads the key and nowhere else; `resolved()` shows them
/// filled in.
///
/// One plain YAML document: no anchors, aliases, merge keys or tags, keys are text, at most 1 MiB
/// and 64 levels. A key given twice is an error, a null value is as good as no value. `{{$NAME:5}}`
/// takes a value from the environment, and a file inherits others through `_base_`: docs/config.md
/// says how. What is inherited keeps its own file and line in messages.
///
/// A Config is a handle: copies and children share one tree. Not thread-safe.
///
///   Config config = Config::load("configs/mnist_mlp.yaml");
///   auto cfg = config.child("train_cfg");
///   const auto epochs = cfg.get<int64_t>("max_epochs", 1);
///   if (epochs < 1) cfg.fail("max_epochs", "must be at least 1");
///   config.finish();
class Config {
 public:
  /// Reads a YAML file and the files in its `_base_`. Throws EnvironmentError where it can't be
  /// read, UsageError with file and line where it is not YAML, not a mapping, names a key twice or
  /// inherits what it can't.
  ///
  /// Difference from Python: of MMEngine's formats YAML alone; a text with {{ that is no expression
  /// is an error, and _delete_ where nothing is inherited, too.
  static Config load(const std::filesystem::path& file);

  /// Reads YAML text, which can't inherit; `name` stands for the file in messages. Throws
  /// UsageError as load() does.
  static Config parse(const std::string& text, const std::string& name = "<text>");

  /// Applies `key.key=value`: 3, 1e-3, True, None, bf16, 'a text', 1,2 or [1, 2] or (1, 2), {a: 1}
  /// (docs/config.md has the grammar); a number as key picks a list's element. Makes a key that is
  /// missing: whether it is allowed is found at `finish()`, which names the option as its place.
  /// Replaces the value whole, so call it before reading: handles to a replaced mapping no longer
  /// belong to the tree.
  void override_with(const std::string& assignment);

  /// True if the key is given and not null. Declares it allowed.
  bool has(const std::string& key);

  /// What kind of value a given key holds: a mapping, a text, a number (also one that get<T>()
  /// refuses, as 1e999). False where it is missing; does not declare it allowed.
  bool is_mapping(const std::string& key) const;
  bool is_text(const std::string& key) const;
  bool is_number(const std::string& key) const;

  /// The keys given, in the order of the file; declares none of them allowed.
  std::vector<std::string> keys() const;

  /// The value of a key that must be given. Throws UsageError with file and line where it is
  /// missing or of another type.
  template <ConfigValue T>
  T get(const std::string& key);

  /// The value, or `fallback` where the key is missing or null.
  template <ConfigValue T>
  T get(const std::string& key, const T& fallback);

  /// A whole number of 1 or more, or `fallback`.
  int64_t get_count(const std::string& key, int64_t fallback);

  /// A mapping that must be given / may be missing.
  Config child(const std::string& key);
  std::optional<Config> child_if(const std::string& key);

  /// A mapping that may be missing: then an empty one, so that its defaults show in `resolved()`.
  Config child_or_empty(const std::string& key);

  /// A list of mappings; empty where the key is missing.
  std::vector<Config> children(const std::string& key);

  /// A tree of its own with the same given values and places, of which nothing was read yet.
  Config copy() const;

  /// Declares a key and all below it allowed, whatever it holds (a command that has no use for it).
  void ignore(const std::string& key);

  /// Sets a value, as if the file said so; `place_name` stands for the file in messages (the
  /// command's --amp does it).
  void set(const std::string& key, const std::string& yaml_value,
           const std::string& place_name = "set by the program");

  /// Moves a given value of another mapping here, in the place of what the key has; the value keeps
  /// its place and the name it had there in messages.
  void adopt(const std::string& key, Config& from, const std::string& from_key);

  /// Takes a key away.
  void remove(const std::string& key);

  /// Throws UsageError: "[config] FILE:LINE: KEY rule, but got VALUE". An empty key means this
  /// mapping, without a value: "[config] FILE:LINE: MAPPING rule".
  [[noreturn]] void fail(const std::string& key, const std::string& rule);

  /// "FILE:LINE" of a key, or of this mapping where the key is empty or missing. Only the option's
  /// name for what came from override_with().
  std::string where(const std::string& key = "") const;

  /// Throws UsageError for the first key of this mapping or of any mapping below it that nobody
  /// read, null ones aside.
  void finish();

  /// The whole mapping as YAML, with every default that was read filled in, in the order of the
  /// file, then of reading. Loads back to an equal text.
  std::string resolved() const;

  /// The same as JSON: numbers, bools, texts, arrays and objects. A number no reader takes (.inf,
  /// 1e999) stays a text.
  nlohmann::json to_json() const;

 private:
  explicit Config(std::shared_ptr<detail::ConfigNode> node) : node_(std::move(node)) {}
  std::shared_ptr<detail::ConfigNode> node_;
};

}  // namespace halfstep::train
