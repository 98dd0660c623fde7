#!/usr/bin/env python3
"""Writes tests/train/weights/golden/*.pth: what Python's torch.save makes of state dicts and of what is none.

Needs the full torch wheel of the version below:
    python scripts/golden/pth_files.py           write the files
    python scripts/golden/pth_files.py --check   fail where reading the committed files gives other values

The bytes hold torch's version and are not compared. Values are multiples of 1/8, so every dtype holds them.
"""
import argparse
import pathlib
import sys
from collections import OrderedDict

import torch

TORCH_VERSION = "2.15.0"
TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests/train/weights/golden"


def count(*shape, dtype=torch.float32):
    """0, 1/8, 2/8 … in a shape."""
    numel = torch.Size(shape).numel()
    return (torch.arange(numel).double() / 8).to(dtype).reshape(shape)


def network():
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.copy_(count(*tensor.shape))
        net[1].num_batches_tracked.fill_(7)
    return net


def mlp():
    """The weights of halfstep's Mlp with sizes [16, 8, 4], in float16."""
    shapes = {"fc1.weight": (8, 16), "fc1.bias": (8,), "fc2.weight": (4, 8), "fc2.bias": (4,)}
    return {"state_dict": {name: count(*shape, dtype=torch.float16) for name, shape in shapes.items()}}


def training():
    """A checkpoint of a training loop under DistributedDataParallel, in float16."""
    net = network().half()
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    net.load_state_dict(network().half().state_dict())
    weights = OrderedDict(("module." + name, tensor) for name, tensor in net.state_dict().items())
    return {"epoch": 3, "best": 0.5, "name": "net", "done": None, "seed": 2**64 - 1, "losses": [1.5, 2.5],
            "size": torch.Size([1, 2]), "state_dict": weights, "optimizer": optimizer.state_dict()}


def tensors():
    shared = count(12)
    return {
        "double": count(2, 3, dtype=torch.float64), "float": count(2, 3), "half": count(2, 3, dtype=torch.float16),
        "bfloat16": count(2, 3, dtype=torch.bfloat16), "long": torch.tensor([1, -2**40]), "int": torch.tensor([1, -2], dtype=torch.int32),
        "short": torch.tensor([1, -2], dtype=torch.int16), "char": torch.tensor([1, -2], dtype=torch.int8),
        "byte": torch.tensor([1, 255], dtype=torch.uint8), "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(0.375), "empty": torch.zeros(0, 3), "transposed": count(2, 3).t(), "expanded": count(3).expand(2, 3),
        "first": shared[:4], "rest": shared[4:].view(2, 4), "parameter": torch.nn.Parameter(count(2)), "extra": 5,
    }


FILES = {
    "state_dict": lambda: network().state_dict(),
    "training": training,
    "mlp": mlp,
    "tensors": tensors,
    "protocol_4": lambda: network().state_dict(),
    "two_networks": lambda: {"generator": network().state_dict(), "discriminator": {"w": count(2)}},
    "whole_module": network,
    "sparse": lambda: {"w": count(2, 2).to_sparse()},
    "complex": lambda: {"w": torch.zeros(2, dtype=torch.complex64)},
    "old_format": lambda: network().state_dict(),
}
OPTIONS = {"protocol_4": {"pickle_protocol": 4}, "old_format": {"_use_new_zipfile_serialization": False}}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.to_dense().equal(b.to_dense())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return isinstance(a, torch.nn.Module) or a == b


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if torch.__version__.split("+")[0] != TORCH_VERSION:
        sys.exit(f"this needs torch {TORCH_VERSION}, but got {torch.__version__}")
    for name, make in FILES.items():
        file = TARGET / f"{name}.pth"
        if arguments.check:
            if not same(make(), torch.load(file, weights_only=False)):
                sys.exit(f"{file} holds other values than this script makes")
        else:
            torch.save(make(), file, **OPTIONS.get(name, {}))


main()
