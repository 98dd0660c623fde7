#include "halfstep/precision/dtype_policy_map.h"

#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/precision/policy_names.h"

#include <algorithm>
#include <ostream>

namespace halfstep {

namespace {

constexpr const char* kDtypePolicyMapWhere = "DtypePolicyMap";

/// Keras' name, or jmp's text for a policy that Keras has no name for.
DtypePolicy of_name(const std::string& name) {
  return name.find('=') == std::string::npos ? DtypePolicy(name) : get_policy(name);
}

}  // namespace

DtypePolicyMap::DtypePolicyMap(std::optional<DtypePolicy> default_policy,
                               std::initializer_list<Entry> entries)
    : default_(default_policy) {
  for (const auto& [key, policy] : entries) add(key, policy);
}

DtypePolicyMap& DtypePolicyMap::add(const std::string& key, const DtypePolicy& policy) {
  for (const auto& [known, its] : entries_)
    HALFSTEP_CHECK_USAGE(known != key, kDtypePolicyMapWhere, "a key must be added once, but got '",
                         key, "', which is there with ", its.name(), "; pop it first");
  patterns_.emplace_back(kDtypePolicyMapWhere, key);
  entries_.emplace_back(key, policy);
  return *this;
}

DtypePolicy DtypePolicyMap::get(const std::string& path) const {
  const auto match = detail::match_path(kDtypePolicyMapWhere, path, patterns_);
  return match ? entries_[*match].second : default_policy();
}

DtypePolicy DtypePolicyMap::pop(const std::string& key) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.first == key; });
  HALFSTEP_CHECK_USAGE(found != entries_.end(), kDtypePolicyMapWhere,
                       "a key must be there to be taken, but got '", key,
                       "'; ask contains() first");
  const auto policy = found->second;
  patterns_.erase(patterns_.begin() + (found - entries_.begin()));
  entries_.erase(found);
  return policy;
}

bool DtypePolicyMap::contains(const std::string& key) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& entry) { return entry.first == key; });
}

DtypePolicyMap::Names DtypePolicyMap::names() const {
  Names names;
  if (default_) names.default_policy = default_->name();
  for (const auto& [key, policy] : entries_) names.policies.emplace_back(key, policy.name());
  return names;
}

DtypePolicyMap DtypePolicyMap::from_names(const Names& names) {
  DtypePolicyMap map;
  if (names.default_policy) map.default_ = of_name(*names.default_policy);
  for (const auto& [key, policy] : names.policies) map.add(key, of_name(policy));
  return map;
}

std::string DtypePolicyMap::str() const {
  std::string text = "DtypePolicyMap(default_policy=" + default_policy().name() + ", mapping=[";
  for (size_t i = 0; i < entries_.size(); ++i) {
    const auto& [key, policy] = entries_[i];
    text += (i == 0 ? "('" : ", ('") + key + "', '" + policy.name() + "')";
  }
  return text + "])";
}

OpPolicy DtypePolicyMap::applied_to(OpPolicy policy) const {
  std::optional<Entry> low;
  for (const auto& entry : entries_) {
    const auto dtype = entry.second.compute_dtype();
    HALFSTEP_CHECK_USAGE(dtype != c10::kDouble, kDtypePolicyMapWhere,
                         "a rule by module computes in 16 bits or float32, but '", entry.first,
                         "' computes in float64; put a PolicyLayer around it");
    if (is_low_precision(dtype)) {
      HALFSTEP_CHECK_USAGE(!low || low->second.compute_dtype() == dtype, kDtypePolicyMapWhere,
                           "the keys must compute in one 16-bit dtype to share a region, but '",
                           low->first, "' computes in ", dtype_name(low->second.compute_dtype()),
                           " and '", entry.first, "' in ", dtype_name(dtype),
                           "; put a PolicyLayer around one of them");
      low = entry;
    }
    policy.module(entry.first,
                  is_low_precision(dtype) ? CastRule::lower_precision : CastRule::float32);
  }
  return policy;
}

std::ostream& operator<<(std::ostream& out, const DtypePolicyMap& map) {
  return out << map.str();
}

}  // namespace halfstep
