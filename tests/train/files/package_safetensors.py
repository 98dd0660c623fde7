"""Reads FOLDER/ours with Python's safetensors and torch and writes it again as FOLDER/theirs.

Ends with status 77 where the packages are missing.
"""
import sys

try:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError as error:
    print("missing:", error)
    sys.exit(77)

folder = sys.argv[1]
tensors = {}
with safe_open(folder + "/ours", framework="pt") as file:
    metadata = file.metadata()
    for name in file.keys():
        tensors[name] = file.get_tensor(name)
assert metadata == {"greeting": "h\u00e9llo"}, metadata
assert len(tensors) == 15, tensors.keys()
for name, tensor in tensors.items():
    expected = torch.arange(5, dtype=torch.float32).to(tensor.dtype)
    assert torch.equal(tensor.view(torch.uint8), expected.view(torch.uint8)), name
save_file(tensors, folder + "/theirs", metadata)
