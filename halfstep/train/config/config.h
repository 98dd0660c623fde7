#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace halfstep::train {

/// One mapping of a YAML config, read strictly.
///
/// Whoever reads a key thereby declares it allowed; `finish()` then refuses every key nobody read,
/// with its file and line, the allowed keys and the nearest spelling. Values are typed: `"5"`
/// (quoted) is no number, `yes` is no bool. Defaults live at the place that reads the key and
/// nowhere else; `resolved()` shows them filled in.
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
  /// Reads a YAML file. Throws EnvironmentError where it can't be read, UsageError with file and
  /// line where it is not YAML, not a mapping, or names a key twice.
  static Config load(const std::filesystem::path& file);

  /// Reads YAML text; `name` stands for the file in messages.
  static Config parse(const std::string& text, const std::string& name = "<text>");

  /// Applies `key.key=value` (value in YAML: 3, 1e-3, bf16, [1, 2]); a number as key picks a list's
  /// element. Makes a key that is missing: whether it is allowed is found at `finish()`, which
  /// names the option as its place.
  void override_with(const std::string& assignment);

  /// True if the key is given and not null. Declares it allowed.
  bool has(const std::string& key);

  /// What kind of value a given key holds.
  bool is_mapping(const std::string& key) const;
  bool is_number(const std::string& key) const;

  /// The value of a key that must be given. T: bool, int64_t, double, std::string, std::vector of
  /// int64_t, double or std::string. Throws UsageError with file and line where it is missing or of
  /// another type.
  template <class T>
  T get(const std::string& key);

  /// The value, or `fallback` where the key is missing or null.
  template <class T>
  T get(const std::string& key, const T& fallback);

  /// A mapping that must be given / may be missing.
  Config child(const std::string& key);
  std::optional<Config> child_if(const std::string& key);

  /// A list of mappings; empty where the key is missing.
  std::vector<Config> children(const std::string& key);

  /// Sets a value, as if the file said so (the command's --amp does it).
  void set(const std::string& key, const std::string& yaml_value);

  /// Throws UsageError: "[config] FILE:LINE: KEY rule, but got VALUE".
  [[noreturn]] void fail(const std::string& key, const std::string& rule);

  /// "FILE:LINE" of a key, or of this mapping.
  std::string where(const std::string& key = "") const;

  /// Throws UsageError for the first key of this mapping or of any mapping below it that nobody
  /// read.
  void finish();

  /// The whole mapping as YAML, with every default that was read filled in, in the order of the
  /// file.
  std::string resolved() const;

 private:
  struct Node;
  explicit Config(std::shared_ptr<Node> node) : node_(std::move(node)) {}
  std::shared_ptr<Node> node_;
};

}  // namespace halfstep::train
