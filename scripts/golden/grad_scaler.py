#!/usr/bin/env python3
"""Writes tests/scaling/golden/grad_scaler_trace.h: what Python's torch.amp.GradScaler does on the CPU.

Needs the full torch wheel of the version below (the library's own set-up has no Python part):
    python scripts/golden/grad_scaler.py           write the file
    python scripts/golden/grad_scaler.py --check   fail where the committed file differs

Inputs are exact literals, so no random numbers have to match. Overflows come from values written into
gradients at chosen places and, in the "wide" traces, from a scale near the end of float32's range.
"""
import argparse
import pathlib
import struct
import sys

import torch

TORCH_VERSION = "2.15.0"
STEPS = 60
SNAPSHOT_EVERY = 6
TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests/scaling/golden/grad_scaler_trace.h"

# parameter: start values, targets, weights of loss = sum(((p - target) * weight)^2); two groups
PARAMETERS = [
    (0, [0.5, -1.25, 3.0], [1.0, 1.0, -2.0], [1.0, 0.5, 0.75]),
    (0, [2.0, -0.125], [0.0, 0.25], [1.5, 1.0]),
    (1, [-3.5, 0.75, 1.0, 0.0625], [0.5, 0.5, 0.5, 0.5], [0.25, 1.0, 2.0, 1.25]),
]
LEARNING_RATES = [0.05, 0.02]
WEIGHT_DECAYS = [0.0, 0.01]
MOMENTUM = 0.9

INF, NAN = float("inf"), float("nan")
# step, parameter, element, value: first and last of each, alone, in a row, and at the very ends
INJECTIONS = [
    (0, 0, 0, INF), (3, 2, 3, NAN), (4, 0, 2, -INF), (5, 1, 0, INF), (11, 1, 1, NAN), (12, 0, 0, NAN),
    (20, 2, 0, INF), (20, 0, 1, NAN), (33, 2, 2, -INF), (46, 1, 1, INF), (47, 2, 3, INF), (59, 0, 2, NAN),
]

# name: init_scale, growth_factor, backoff_factor, growth_interval
SCALINGS = {
    "even": (2.0**10, 2.0, 0.5, 3),
    "odd": (1000.0, 1.7, 0.3, 2),
    "wide": (2.0**120, 4.0, 0.5, 2),
}


def make_optimizer(name, groups):
    if name in ("sgd", "momentum"):
        return torch.optim.SGD(groups, lr=1.0, momentum=MOMENTUM if name == "momentum" else 0.0, foreach=False)
    return torch.optim.Adam(groups, lr=1.0, foreach=False, fused=name == "fused_adam")


def bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def trace(optimizer_name, scaling):
    init_scale, growth_factor, backoff_factor, growth_interval = SCALINGS[scaling]
    parameters = [torch.tensor(start, requires_grad=True) for _, start, _, _ in PARAMETERS]
    groups = [
        {"params": [p for p, (g, *_) in zip(parameters, PARAMETERS) if g == group],
         "lr": LEARNING_RATES[group], "weight_decay": WEIGHT_DECAYS[group]}
        for group in (0, 1)
    ]
    optimizer = make_optimizer(optimizer_name, groups)
    scaler = torch.amp.GradScaler("cpu", init_scale, growth_factor, backoff_factor, growth_interval)
    steps, snapshots = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = []
        for p, (_, _, target, weight) in zip(parameters, PARAMETERS):
            difference = (p - torch.tensor(target)) * torch.tensor(weight)
            losses.append((difference * difference).sum())
        scaler.scale(losses[0] + losses[1] + losses[2]).backward()
        for at, parameter, element, value in INJECTIONS:
            if at == step:
                parameters[parameter].grad[element] = value
        scaler.step(optimizer)
        found_inf = sum(v.item() for v in scaler._found_inf_per_device(optimizer).values())
        scaler.update()
        steps.append((bits(scaler.get_scale()), scaler._get_growth_tracker(), int(found_inf)))
        if (step + 1) % SNAPSHOT_EVERY == 0:
            snapshots.append([bits(x) for p in parameters for x in p.tolist()])
    skipped = sum(found for _, _, found in steps)
    if not len({at for at, *_ in INJECTIONS}) <= skipped < STEPS:
        sys.exit(f"{optimizer_name} {scaling}: {skipped} of {STEPS} steps skipped: the trace proves nothing")
    if scaling == "wide" and skipped == len({at for at, *_ in INJECTIONS}):
        sys.exit(f"{optimizer_name} wide: no overflow by the scale itself: the trace proves nothing")
    return steps, snapshots


def float_literal(value):
    if value != value:
        return "std::numeric_limits<float>::quiet_NaN()"
    if abs(value) == INF:
        return ("-" if value < 0 else "") + "std::numeric_limits<float>::infinity()"
    return f"{value!r}F"


def floats(values):
    return "{" + ", ".join(float_literal(float(v)) for v in values) + "}"


def lines_of(words, per_line):
    for i in range(0, len(words), per_line):
        yield "         " + ", ".join(words[i:i + per_line]) + ","


def header():
    out = [
        "#pragma once",
        f"// Written by scripts/golden/grad_scaler.py with torch {TORCH_VERSION} on the CPU. Do not edit.",
        "// clang-format off",
        "#include <cstdint>",
        "#include <limits>",
        "#include <string>",
        "#include <vector>",
        "",
        "namespace halfstep::testing::golden {",
        "",
        "struct Parameter { int group; std::vector<float> start, target, weight; };",
        "struct Injection { int step; int parameter; int element; float value; };",
        "/// After update(): the scale's bits, the growth tracker, and whether the step was skipped.",
        "struct Step { uint32_t scale; int tracker; int found_inf; };",
        "struct Trace {",
        "  std::string optimizer, scaling;",
        "  double init_scale, growth_factor, backoff_factor;",
        "  int growth_interval;",
        "  std::vector<Step> steps;",
        "  std::vector<std::vector<uint32_t>> snapshots;  // all parameters' bits, every kSnapshotEvery steps",
        "};",
        "",
        f"inline constexpr int kSnapshotEvery = {SNAPSHOT_EVERY};",
        f"inline constexpr double kMomentum = {MOMENTUM!r};",
        f"inline const std::vector<double> kLearningRates{{{', '.join(map(repr, LEARNING_RATES))}}};",
        f"inline const std::vector<double> kWeightDecays{{{', '.join(map(repr, WEIGHT_DECAYS))}}};",
        "",
        "inline const std::vector<Parameter> kParameters{",
    ]
    for group, start, target, weight in PARAMETERS:
        out.append(f"    {{{group}, {floats(start)}, {floats(target)}, {floats(weight)}}},")
    out += ["};", "", "inline const std::vector<Injection> kInjections{"]
    for step, parameter, element, value in INJECTIONS:
        out.append(f"    {{{step}, {parameter}, {element}, {float_literal(value)}}},")
    out += ["};", "", "inline const std::vector<Trace> kTraces{"]
    for optimizer_name in ("sgd", "momentum", "adam", "fused_adam"):
        for scaling, numbers in SCALINGS.items():
            steps, snapshots = trace(optimizer_name, scaling)
            init_scale, growth_factor, backoff_factor, growth_interval = numbers
            out.append(f'    {{"{optimizer_name}", "{scaling}", {init_scale!r}, {growth_factor!r}, '
                       f"{backoff_factor!r}, {growth_interval},")
            out.append("        {")
            out += lines_of([f"{{0x{s:08x}, {t}, {f}}}" for s, t, f in steps], 5)
            out.append("        },")
            out.append("        {")
            for snapshot in snapshots:
                out.append("         {" + ", ".join(f"0x{word:08x}" for word in snapshot) + "},")
            out.append("        }},")
    out += ["};", "", "}  // namespace halfstep::testing::golden", ""]
    return "\n".join(out)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--check", action="store_true", help="compare with the committed file")
    check = arguments.parse_args().check
    print(f"torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}")
    if torch.__version__.split("+")[0] != TORCH_VERSION:
        sys.exit(f"the golden traces are of torch {TORCH_VERSION}: install it, or change TORCH_VERSION and commit both")
    text = header()
    if not check:
        TARGET.write_text(text)
        print(f"wrote {TARGET}")
    elif TARGET.read_text() != text:
        sys.exit(f"{TARGET} differs from what this torch does")
    else:
        print(f"{TARGET} is as committed")


if __name__ == "__main__":
    main()
