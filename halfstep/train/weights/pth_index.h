#pragma once
#include "halfstep/train/files/safetensors_header.h"
#include "halfstep/train/weights/pickle.h"
#include "halfstep/train/weights/zip_directory.h"

#include <functional>
#include <optional>
#include <string>
#include <vector>

/// Where the tensors of a .pth file lie: what torch.save writes, a zip archive with a pickle that
/// describes tensors and a file for each storage. No LibTorch here, so that it can be fuzzed alone.
namespace halfstep::train {

/// A tensor of the file: elements of a storage, which several may share.
struct PthTensor {
  std::string name;  ///< in the state dict
  SafetensorsDtype dtype = SafetensorsDtype::F32;
  std::string storage;  ///< the key of its storage: the record "data/KEY"
  uint64_t offset = 0;  ///< of its first element in the storage, in elements
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  ///< in elements, not negative
};

/// A state dict of the file.
struct PthIndex {
  std::vector<PthTensor> tensors;   ///< in the file's order; each lies within its storage
  std::vector<std::string> others;  ///< names of its entries that are no tensors
};

/// The size in bytes of a storage's record; nothing where there is none of that key.
using StorageSize = std::function<std::optional<uint64_t>(const std::string& key)>;

/// Reads the archive's data.pkl (with `read`, which gives the bytes of an entry) and the state dict
/// in it. `key` says under which key of the file's dict the state dict lies; where it is empty, it
/// is the dict of tensors under state_dict, model_state_dict, model, module, params, weights, net
/// or network, the first of these that there is (under one of them in such a dict, too:
/// {"model": {"state_dict": …}}), else the file's dict itself if it holds tensors, else the only
/// dict of tensors in it.
///
/// Throws EnvironmentError for a file that is damaged, holds anything but tensors and plain data,
/// or was written on a machine of other byte order, and UsageError where it can't be told which
/// dict is meant or there is none under `key`.
PthIndex read_pth_index(const std::string& file, const std::map<std::string, ZipEntry>& entries,
                        const std::string& key,
                        const std::function<std::string(const std::string& name)>& read);

/// The part behind the archive: the state dict in a pickle. `storage_size` is asked for each
/// storage.
PthIndex read_state_dict(std::string_view pickle, const std::string& key,
                         const StorageSize& storage_size, const std::string& file);

/// The archive's own folder ("archive"), in which data.pkl and data/ lie. Throws EnvironmentError
/// where there is none.
std::string pth_root(const std::map<std::string, ZipEntry>& entries, const std::string& file);

}  // namespace halfstep::train
