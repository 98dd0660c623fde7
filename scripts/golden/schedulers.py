#!/usr/bin/env python3
"""Writes tests/train/optim/golden/schedulers.h: the learning rates of Python's schedulers, from 0.05.

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
FILE = pathlib.Path(__file__).parents[2] / "tests/train/optim/golden/schedulers.h"
CASES = {
    "step": lambda o: lr_scheduler.StepLR(o, step_size=3, gamma=0.1),
    "multi_step": lambda o: lr_scheduler.MultiStepLR(o, milestones=[1, 4, 10], gamma=0.5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=8, eta_min=0.001),
}


def rates(make_scheduler):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    scheduler = make_scheduler(optimizer)
    result = [optimizer.param_groups[0]["lr"]]
    for _ in range(EPOCHS):
        optimizer.step()
        scheduler.step()
        result.append(optimizer.param_groups[0]["lr"])
    return result


def header():
    lines = [
        "// Written by scripts/golden/schedulers.py with torch " + TORCH_VERSION + "; don't edit.",
        "#pragma once",
        "",
        "namespace halfstep::train::golden {",
        "",
        "// Rates after 0, 1, ... finished epochs.",
        "// clang-format off",
    ]
    for name, make_scheduler in CASES.items():
        values = ", ".join(repr(float(rate)) for rate in rates(make_scheduler))
        lines.append("inline constexpr double " + name + "[] = {" + values + "};")
    return "\n".join(lines + ["// clang-format on", "", "}  // namespace halfstep::train::golden", ""])


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
