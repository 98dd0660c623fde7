#!/usr/bin/env python3
"""Writes tests/optim/golden/schedulers.h: the learning rates of Python's schedulers, from 0.05.

Needs the torch wheel of the version below with its Python part:
    python scripts/golden/schedulers.py           write the file
    python scripts/golden/schedulers.py --check   fail where the committed file differs
"""
import argparse
import pathlib
import sys

import torch
from torch.optim import lr_scheduler

TORCH_VERSION = "2.15.0"
EPOCHS = 12
FILE = pathlib.Path(__file__).parents[2] / "tests/optim/golden/schedulers.h"
CASES = {
    "step": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.1),
    "multi_step": lambda o: lr_scheduler.MultiStepLR(o, milestones=[1, 4, 10], gamma=0.5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=8, eta_min=0.001),
    "constant": lambda o: lr_scheduler.ConstantLR(o, factor=0.25, total_iters=4),
    "linear": lambda o: lr_scheduler.LinearLR(o, start_factor=0.1, end_factor=0.9, total_iters=6),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, total_iters=10, power=2.0),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2, eta_min=0.001),
    "restarts_even": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=5),
    "lambdas": lambda o: lr_scheduler.LambdaLR(o, lambda n: 1 / (1 + n)),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.LinearLR(o, start_factor=0.2, total_iters=4),
            lr_scheduler.CosineAnnealingLR(o, T_max=5),
            lr_scheduler.ConstantLR(o, factor=0.5, total_iters=100),
        ],
        milestones=[4, 9],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, gamma=0.9), lr_scheduler.ConstantLR(o, factor=0.5, total_iters=3)]
    ),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=13),
    "one_cycle_linear": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.5, total_steps=13, pct_start=0.5, anneal_strategy="linear", div_factor=10, final_div_factor=100
    ),
    "one_cycle_three": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=13, three_phase=True),
}


def values(make_scheduler, key):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    result = [optimizer.param_groups[0][key]]
    for _ in range(EPOCHS):
        optimizer.step()
        scheduler.step()
        result.append(optimizer.param_groups[0][key])
    return result


def line(name, numbers):
    return f"inline constexpr double {name}[] = {{{', '.join(repr(float(number)) for number in numbers)}}};"


def header():
    lines = [
        "// Written by scripts/golden/schedulers.py with torch " + TORCH_VERSION + "; don't edit.",
        "#pragma once",
        "",
        "namespace halfstep::golden {",
        "",
        "// Rates after 0, 1, ... finished epochs.",
        "// clang-format off",
    ]
    for name, make_scheduler in CASES.items():
        lines.append(line(name, values(make_scheduler, "lr")))
        if name.startswith("one_cycle"):
            lines.append(line(name + "_momentum", values(make_scheduler, "momentum")))
    return "\n".join(lines + ["// clang-format on", "", "}  // namespace halfstep::golden", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if torch.__version__.split("+")[0] != TORCH_VERSION:
        sys.exit(f"needs torch {TORCH_VERSION}, but got {torch.__version__}")
    text = header()
    if not arguments.check:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        sys.exit(f"{FILE} differs from what torch {TORCH_VERSION} gives")


main()
