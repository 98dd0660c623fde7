#!/usr/bin/env python3
"""Writes tests/optim/golden/fused_runs.h: 1,000 steps of Python's fused optimizers on the CPU.

Needs the full torch wheel of the version below:
    python scripts/golden/fused_optimizers.py           write the file
    python scripts/golden/fused_optimizers.py --check   fail where the committed file differs

Gradients and start values are fractions with small numerators, so no random numbers have to match. Sizes are below
or multiples of every vector length, so the bits depend neither on it nor on one or two threads; the kernels must be
those for AVX2 or AVX-512 (both give these bits).
"""
import argparse
import pathlib
import sys

import torch

TORCH_VERSION = "2.15.0"
STEPS = 1000
SNAPSHOTS = (1, 10, 100, 1000)
TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests/optim/golden/fused_runs.h"

SIZES = [3, 128, 64]  # of the parameters
GROUPS = [0, 0, 1]  # their groups

DEFAULTS = dict(lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, maximize=False, momentum=0.0,
                dampening=0.0, nesterov=False, lr_decay=0.0, initial_accumulator_value=0.0)

# name, class, dtype, options of group 0, what differs in group 1, scale (0: none), steps with an overflow
SKIPS = [3, 4, 17, 500, 999]
RUNS = [
    ("adam", "Adam", "float32", {}, dict(lr=3e-3), 0, []),
    ("adam_decay", "Adam", "float32", dict(weight_decay=0.1, eps=1e-6), dict(weight_decay=0.0), 0, []),
    ("adam_amsgrad", "Adam", "float32", dict(amsgrad=True, beta1=0.8, beta2=0.99), dict(lr=1e-3), 0, []),
    ("adam_maximize", "Adam", "float32", dict(maximize=True, amsgrad=True, weight_decay=0.01), dict(maximize=False), 0, []),
    ("adam_scaled", "Adam", "float32", {}, dict(lr=3e-3), 1000, [0] + SKIPS),
    ("adam_float64", "Adam", "float64", dict(weight_decay=0.1), dict(lr=3e-3), 1000, SKIPS),
    ("adam_bfloat16", "Adam", "bfloat16", dict(lr=0.1), dict(lr=3e-3), 8, SKIPS),
    ("adam_float16", "Adam", "float16", dict(lr=0.1, eps=1e-3), dict(lr=3e-3), 8, SKIPS),
    ("adamw", "AdamW", "float32", dict(weight_decay=0.01), dict(lr=3e-3, weight_decay=0.1), 0, []),
    ("adamw_amsgrad", "AdamW", "float32", dict(weight_decay=0.1, amsgrad=True), dict(maximize=True), 65536, [0] + SKIPS),
    ("adamw_bfloat16", "AdamW", "bfloat16", dict(lr=0.1, weight_decay=0.1), dict(lr=3e-3), 0, []),
    ("sgd", "SGD", "float32", {}, dict(lr=3e-3), 0, []),
    ("sgd_momentum", "SGD", "float32", dict(momentum=0.9), dict(weight_decay=0.1), 0, []),
    ("sgd_dampening", "SGD", "float32", dict(momentum=0.9, dampening=0.5), dict(momentum=0.0), 0, []),
    ("sgd_nesterov", "SGD", "float32", dict(momentum=0.9, nesterov=True, weight_decay=0.01), dict(maximize=True), 0, []),
    ("sgd_scaled", "SGD", "float32", dict(momentum=0.9, weight_decay=0.01), dict(lr=3e-3), 1000, SKIPS),
    ("sgd_bfloat16", "SGD", "bfloat16", dict(momentum=0.9), dict(lr=3e-3), 8, SKIPS),
    ("adagrad", "Adagrad", "float32", {}, dict(lr=3e-3), 0, []),
    ("adagrad_decay", "Adagrad", "float32", dict(lr_decay=1e-3, weight_decay=0.1), dict(maximize=True), 0, []),
    ("adagrad_scaled", "Adagrad", "float32", dict(initial_accumulator_value=0.5), dict(lr=3e-3), 1000, [0] + SKIPS),
    ("adagrad_float16", "Adagrad", "float16", dict(eps=1e-4), dict(lr=3e-3), 8, SKIPS),
]


def start(p):
    i = torch.arange(SIZES[p])
    return ((i * 31 + p * 17) % 97 - 48).double() / 64


def gradient(p, step):
    i = torch.arange(SIZES[p])
    return ((i * 7919 + step * 104729 + p * 1299709) % 2003 - 1001).double() / 512


def keywords(name, options):
    common = {key: options[key] for key in ("lr", "weight_decay", "maximize")}
    if name in ("Adam", "AdamW"):
        return common | dict(betas=(options["beta1"], options["beta2"]), eps=options["eps"], amsgrad=options["amsgrad"])
    if name == "SGD":
        return common | {key: options[key] for key in ("momentum", "dampening", "nesterov")}
    return common | {key: options[key] for key in ("lr_decay", "eps", "initial_accumulator_value")}


def fnv(tensors):
    h = 0xCBF29CE484222325
    for t in tensors:
        for byte in t.detach().contiguous().view(torch.uint8).flatten().tolist():
            h = ((h ^ byte) * 0x100000001B3) % 2**64
    return h


def run(name, cls, dtype, first, second, scale, skips):
    dtype = getattr(torch, dtype)
    parameters = [start(p).to(dtype).requires_grad_() for p in range(len(SIZES))]
    groups = [dict(params=[q for q, g in zip(parameters, GROUPS) if g == n],
                   **keywords(cls, DEFAULTS | first | (second if n else {}))) for n in (0, 1)]
    # Python takes it for all groups.
    whole = {"initial_accumulator_value": groups[0]["initial_accumulator_value"]} if cls == "Adagrad" else {}
    optimizer = getattr(torch.optim, cls)(groups, fused=True, **whole)
    buffers = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum")
    snapshots = []
    for step in range(STEPS):
        for p, q in enumerate(parameters):
            q.grad = (gradient(p, step) * (scale or 1)).to(dtype)
            if step in skips and p == 1:
                q.grad[5] = float("inf")
        if scale:
            optimizer.grad_scale = torch.tensor(float(scale))
            optimizer.found_inf = torch.tensor(float(step in skips))
        optimizer.step()
        if step + 1 in SNAPSHOTS:
            states = [optimizer.state[q] for q in parameters]
            snapshots.append((fnv(parameters), fnv(q.grad for q in parameters),
                              fnv(s[b] for s in states for b in buffers if b in s)))
    moved = [q.detach() != start(p).to(dtype) for p, q in enumerate(parameters)]
    if any(m.double().mean() < 0.8 or not q.isfinite().all() for m, q in zip(moved, parameters)):
        sys.exit(f"{name}: parameters stand still or are not finite: the run proves nothing")
    return snapshots, parameters[0].tolist()


def literal(value):
    return str(value).lower() if isinstance(value, bool) else repr(float(value))


def header():
    out = [
        "#pragma once",
        f"// Written by scripts/golden/fused_optimizers.py with torch {TORCH_VERSION} on the CPU. Do not edit.",
        "// clang-format off",
        "#include <cstdint>",
        "#include <string>",
        "#include <vector>",
        "",
        "namespace halfstep::testing::golden {",
        "",
        "struct Options { " + " ".join(f"{'bool' if isinstance(v, bool) else 'double'} {k};" for k, v in DEFAULTS.items()) + " };",
        "/// FNV-1a of the bytes of all parameters, gradients and state buffers, one parameter after the other.",
        "struct Snapshot { uint64_t parameters, gradients, buffers; };",
        "struct Run {",
        "  std::string name, optimizer, dtype;",
        "  Options groups[2];",
        "  double scale;                     // 0: none",
        "  std::vector<int> skips;           // steps with an overflow",
        "  std::vector<Snapshot> snapshots;  // after the steps kSnapshots",
        "  std::vector<double> last;         // the first parameter at the end",
        "};",
        "",
        f"inline constexpr int kSteps = {STEPS};",
        f"inline constexpr int kSnapshots[] = {{{', '.join(map(str, SNAPSHOTS))}}};",
        f"inline constexpr int kSizes[] = {{{', '.join(map(str, SIZES))}}};",
        f"inline constexpr int kGroups[] = {{{', '.join(map(str, GROUPS))}}};",
        "",
        "inline const std::vector<Run> kRuns{",
    ]
    for name, cls, dtype, first, second, scale, skips in RUNS:
        snapshots, last = run(name, cls, dtype, first, second, scale, skips)
        out.append(f'    {{"{name}", "{cls}", "{dtype}",')
        for options in (DEFAULTS | first, DEFAULTS | first | second):
            opening = "     {{" if options == DEFAULTS | first and not out[-1].startswith("     {{") else "      {"
            out.append(opening + ", ".join(literal(v) for v in options.values()) + "},")
        out[-1] = out[-1][:-1] + "},"
        out.append(f"     {literal(scale)}, {{{', '.join(map(str, skips))}}},")
        out.append("     {" + ", ".join("{" + ", ".join(f"0x{h:016x}" for h in s) + "}" for s in snapshots) + "},")
        out.append("     {" + ", ".join(v.hex() for v in last) + "}},")
    out += ["};", "", "}  // namespace halfstep::testing::golden", ""]
    return "\n".join(out)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare with the committed file")
    check = arguments.parse_args().check
    print(f"torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    if torch.__version__.split("+")[0] != TORCH_VERSION:
        sys.exit(f"the golden runs are of torch {TORCH_VERSION}: install it, or change TORCH_VERSION and commit both")
    text = header()
    if not check:
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(text)
        print(f"wrote {TARGET}")
    elif TARGET.read_text() != text:
        sys.exit(f"{TARGET} differs from what this torch does")
    else:
        print(f"{TARGET} is as committed")


if __name__ == "__main__":
    main()
