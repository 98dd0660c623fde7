#pragma once
#include "halfstep/autocast/op_policy.h"
#include "halfstep/core/path_patterns.h"
#include "halfstep/precision/dtype_policy.h"

#include <cstddef>
#include <initializer_list>
#include <iosfwd>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace halfstep {

/// Which DtypePolicy each part of a model has, by path: Keras' DTypePolicyMap.
///
///   halfstep::DtypePolicyMap policies("mixed_bfloat16");
///   policies.add("decoder\\..*", "float32");
///   policies.add("decoder.0", "mixed_bfloat16");
///   policies.get("decoder.0");  // mixed_bfloat16: the exact path wins
///   policies.get("decoder.1");  // float32: the pattern
///   policies.get("encoder");    // mixed_bfloat16: the default
///
/// A key is a path or a regular expression (ECMAScript's, as std::regex) that must match a whole
/// path. A value: copied freely; reading it is safe from any thread.
class DtypePolicyMap {
 public:
  /// A key with its policy; they are kept in the order they were added.
  using Entry = std::pair<std::string, DtypePolicy>;
  using value_type = Entry;
  using const_iterator = std::vector<Entry>::const_iterator;

  /// The default is the process's policy (`dtype_policy()`), whatever it is when asked.
  DtypePolicyMap() = default;
  /// Throws UsageError as DtypePolicy and add() do.
  explicit DtypePolicyMap(std::optional<DtypePolicy> default_policy,
                          std::initializer_list<Entry> entries = {});
  explicit DtypePolicyMap(const char* default_policy, std::initializer_list<Entry> entries = {})
      : DtypePolicyMap(DtypePolicy(default_policy), entries) {}

  /// Throws UsageError for a key that is there already, one that is no regular expression, and a
  /// policy's name that is none.
  DtypePolicyMap& add(const std::string& key, const DtypePolicy& policy);

  /// The policy of a path: that of the same key, else of the key that matches it, else the default.
  /// Throws UsageError that names two keys where several match.
  DtypePolicy get(const std::string& path) const;
  DtypePolicy operator[](const std::string& path) const { return get(path); }

  /// Takes a key away and returns its policy. Throws UsageError where it is not there.
  DtypePolicy pop(const std::string& key);

  /// Whether this very key is there.
  bool contains(const std::string& key) const;
  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  /// Over the keys and policies in the order they were added.
  const_iterator begin() const { return entries_.begin(); }
  const_iterator end() const { return entries_.end(); }

  DtypePolicy default_policy() const { return default_.value_or(DtypePolicy()); }
  /// The default's.
  c10::ScalarType compute_dtype() const { return default_policy().compute_dtype(); }
  c10::ScalarType variable_dtype() const { return default_policy().variable_dtype(); }

  /// "map_mixed_bfloat16", by the default.
  std::string name() const { return "map_" + default_policy().name(); }

  /// As text to save: Keras' get_config. The default is none where the process's is taken.
  struct Names {
    std::optional<std::string> default_policy;
    std::vector<std::pair<std::string, std::string>> policies;  ///< keys and policies' names
    bool operator==(const Names&) const = default;
  };
  Names names() const;
  /// The map that has these names. Throws UsageError for a name or key that can't be.
  /// Difference from Keras: policies keep their own names where there is no default; Keras saves
  /// them nameless, and all of them become the process's policy when loaded.
  static DtypePolicyMap from_names(const Names& names);

  /// "DtypePolicyMap(default_policy=float32, mapping=[('head', 'mixed_float16')])"
  std::string str() const;

  /// `policy` with these keys as rules by module (OpPolicy::module): computation in 16 bits is
  /// lower_precision, in float32 float32. What the map is for where autocast chooses: Keras' layers
  /// ask their map when they are made, C++ modules can't. The default is the region's own matter.
  /// Throws UsageError where a key computes in float64, which autocast never casts to, where two
  /// compute in different 16-bit dtypes, as a region has one, and as OpPolicy::module does.
  OpPolicy applied_to(OpPolicy policy) const;

 private:
  std::optional<DtypePolicy> default_;
  std::vector<Entry> entries_;
  std::vector<detail::PathPattern> patterns_;  // of the entries, in their order
};

/// Prints `str()`.
std::ostream& operator<<(std::ostream& out, const DtypePolicyMap& map);

}  // namespace halfstep
