"""Writes FOLDER/NAME.pth: two tensors under "state_dict", as torch.save writes them.

    write_pth.py FOLDER/NAME.pth          by torch; ends with status 77 where it is missing
    write_pth.py FOLDER/NAME.pth --plain  by Python's own pickle and zipfile
"""
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

target = sys.argv[1]


def by_torch():
    try:
        import torch
    except ImportError as error:
        print("missing:", error)
        sys.exit(77)
    weights = OrderedDict(w=torch.tensor([[0.5, 1.5], [2.5, -3.0]]), n=torch.tensor([7, 8]))
    torch.save({"state_dict": weights, "epoch": 3}, target)


def by_pickle():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    sys.modules.update({"torch": torch, "torch._utils": utils})

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    class Storage:
        def __init__(self, kind, key, data, letter):
            self.id = ("storage", kind, key, "cpu", len(data))
            self.bytes = struct.pack(f"<{len(data)}{letter}", *data)

    class Tensor:
        def __init__(self, storage, shape, strides):
            self.arguments = (storage, 0, shape, strides, False, OrderedDict())

        def __reduce__(self):
            return _rebuild_tensor_v2, self.arguments

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            return value.id if isinstance(value, Storage) else None

    storages = [Storage(torch.FloatStorage, "0", [0.5, 1.5, 2.5, -3.0], "f"), Storage(torch.LongStorage, "1", [7, 8], "q")]
    weights = OrderedDict(w=Tensor(storages[0], (2, 2), (2, 1)), n=Tensor(storages[1], (2,), (1,)))
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open("plain/data.pkl", "w") as file:
            Pickler(file, protocol=2).dump({"state_dict": weights, "epoch": 3})
        for storage in storages:
            archive.writestr("plain/data/" + storage.id[2], storage.bytes)


by_pickle() if "--plain" in sys.argv else by_torch()
