#!/usr/bin/env python3
"""Writes tests/train/models/golden/networks.h: losses and gradients of the benchmark's networks in Python, on the CPU.

Needs the full torch wheel of the version below (the library's own set-up has no Python part):
    python scripts/golden/networks.py           write the file
    python scripts/golden/networks.py --check   fail where the committed file differs by more than rounding

Weights and inputs come from an integer hash both sides compute, so only results are stored: per parameter the norm of its
gradient and its dot product with another hash. Kernels differ between kinds of CPU, so the values are not to the bit: the
float64 ones pin the networks down; gradients of the ResNet are chaotic (a ReLU that flips changes them by much).
"""
import argparse
import math
import pathlib
import re
import sys

import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import networks  # noqa: E402

TORCH_VERSION = "2.15.0"
TARGET = ROOT / "tests/train/models/golden/networks.h"


def uniform(sizes, salt):
    """Numbers in [-1, 1), exact in float32."""
    x = torch.arange(math.prod(sizes), dtype=torch.int64) * 2654435761 + salt * 97003
    x = (x ^ (x >> 15)) % 2147483648 * 1103515245
    x = (x ^ (x >> 13)) % 2147483648
    return ((x >> 8).to(torch.float32) / 4194304 - 1).reshape(sizes)


def set_weights(net):
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            u = uniform(list(p.shape), i + 1)
            fan_in = p[0].numel() if p.dim() > 1 else 1
            p.copy_(u / math.sqrt(fan_in) if p.dim() > 1 else u * 0.1)
        for name, module in net.named_modules():
            if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.LayerNorm)):
                module.weight += 1


def images(n, channels, size):
    return uniform([n, channels, size, size], 1001), torch.arange(n) * 7 % 10


def tokens(n, t):
    return (uniform([n, t], 1002) * 128 + 128).floor().to(torch.int64), torch.arange(n * t) * 31 % 256


CASES = {
    "Mlp": (lambda: networks.Mlp(784, 256, 10), lambda: (uniform([64, 784], 1003), torch.arange(64) * 7 % 10)),
    "ResNet18": (lambda: networks.ResNet18(width=16), lambda: images(8, 1, 28)),
    "Gpt": (networks.Gpt, lambda: tokens(2, 128)),
}


def results(case, precision):
    make, data = CASES[case]
    net, (x, y) = make(), data()
    set_weights(net)
    if precision == "float64":
        net = net.double()
        x = x.double() if x.is_floating_point() else x
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        loss = F.cross_entropy(net(x), y)
    loss.backward()
    gradients = []
    for i, (name, p) in enumerate(net.named_parameters()):
        g = p.grad.double()
        gradients.append((name, g.norm().item(), (g * uniform(list(p.shape), 2001 + i).double()).sum().item()))
    return loss.item(), gradients


def generate():
    lines = [
        f"// Written by scripts/golden/networks.py with torch {TORCH_VERSION}; don't edit.",
        "#pragma once", "#include <vector>", "", "namespace halfstep::train::golden {", "",
        "struct Gradient {", "  const char* name;", "  double norm;", "  double dot;", "};", "",
        "struct Network {", "  const char *type, *precision;", "  double loss;",
        "  std::vector<Gradient> gradients;", "};", "", "// clang-format off",
        "inline const std::vector<Network> networks{",
    ]
    for case in CASES:
        for precision in ("float64", "float32", "autocast"):
            loss, gradients = results(case, precision)
            lines.append(f'  {{"{case}", "{precision}", {loss:.13g}, {{')
            lines += [f'    {{"{name}", {norm:.13g}, {dot:.13g}}},' for name, norm, dot in gradients]
            lines.append("  }},")
    lines += ["};", "// clang-format on", "", "}  // namespace halfstep::train::golden", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if torch.__version__.split("+")[0] != TORCH_VERSION:
        sys.exit(f"torch {TORCH_VERSION} is needed, but got {torch.__version__}")
    text = generate()
    if not arguments.check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text)
        return
    number = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")
    old = TARGET.read_text()
    if number.sub("#", old) != number.sub("#", text):
        sys.exit(f"{TARGET} has other entries; run this script without --check")
    worst, precision = {"float64": 0.0, "float32": 0.0, "autocast": 0.0}, "float64"
    for a, b in zip(old.splitlines(), text.splitlines()):
        precision = next((name for name in worst if f'"{name}"' in a), precision)
        for x, y in zip(number.findall(a), number.findall(b)):
            worst[precision] = max(worst[precision], abs(float(x) - float(y)) / max(abs(float(x)), 1e-2))
    print("largest differences, as parts of the value:", worst)
    sys.exit(0 if worst["float64"] < 1e-8 else f"{TARGET} differs by more than rounding in float64")


if __name__ == "__main__":
    main()
