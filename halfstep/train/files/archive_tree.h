#pragma once
#include "halfstep/train/files/safetensors.h"

#include <functional>
#include <map>
#include <string>

#include <ATen/core/ivalue.h>
#include <torch/serialize/archive.h>

#include <nlohmann/json.hpp>

/// LibTorch's archives as plain data: what a class writes with its serialize() methods, opened up
/// so that a checkpoint can keep it under names of its own.
namespace halfstep::train {

/// An archive: its values by name, and the archives inside it.
struct ArchiveTree {
  std::map<std::string, c10::IValue> values;
  std::map<std::string, ArchiveTree> children;
};

/// Everything in an archive. Tensors are shared, not copied.
ArchiveTree read_archive(torch::serialize::OutputArchive& archive);

/// An archive that holds the tree, ready to be read. Tensors are shared, not copied.
torch::serialize::InputArchive make_archive(const ArchiveTree& tree);

/// A tree as JSON, its tensors put into `tensors` as "<prefix>.<key>". Takes tensors, numbers,
/// texts, none, lists of tensors or numbers, and tuples of these; throws UsageError for other types
/// and for a name that is taken. A tensor on the CPU while `device` is another is marked to stay
/// there.
nlohmann::json encode_tree(const ArchiveTree& tree, const std::string& prefix, c10::Device device,
                           NamedTensors& tensors);

/// The inverse; tensors are copied, to `device` unless they were marked. Throws EnvironmentError
/// for a tensor that is missing, nlohmann::json::exception for JSON that encode_tree() did not
/// write.
ArchiveTree decode_tree(const nlohmann::json& json, const std::string& prefix, c10::Device device,
                        const NamedTensors& tensors);

}  // namespace halfstep::train
