#!/usr/bin/env python3
"""Trains configs/dcgan.yaml through the command, a little or in full.

    gan_test.py --program halfstep --classes gan_classes --configs configs             a little, in each variant
    gan_test.py --program halfstep --classes gan_classes --configs configs --in-full   and counts the classes a classifier sees
"""
import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", required=True)
parser.add_argument("--classes", required=True)
parser.add_argument("--configs", type=Path, required=True)
parser.add_argument("--in-full", action="store_true")
arguments = parser.parse_args()

SMALL = ["train_dataloader.dataset.limit=640", "train_cfg.max_epochs=1", "default_hooks.logger.interval=5",
         "model.generator.base_channels=16", "model.discriminator.base_channels=8"]


def for_both(*settings):
    return [f"optim_wrapper.{part}.{setting}" for part in ("generator", "discriminator") for setting in settings]


def run(*command):
    start = time.monotonic()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    print("$", *command, f"\n{done.stdout}{done.stderr}({time.monotonic() - start:.0f} s)\n", flush=True)
    if done.returncode != 0:
        sys.exit(f"FAILED: status {done.returncode}")
    return done.stdout


def train(config, work_dir, options=()):
    output = run(arguments.program, "train", arguments.configs / f"{config}.yaml", "--work-dir", work_dir, "--device", "cpu",
                 *(["--cfg-options", *options] if options else []))
    lines = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    scalars = [json.loads(line) for line in (work_dir / "vis_data" / "scalars.json").read_text().splitlines()]
    return output, lines, scalars


def check(condition, rule):
    if not condition:
        sys.exit(f"FAILED: {rule}")


def check_gan(work_dir, lines, scalars, epochs, losses=("loss_disc_fake", "loss_disc_real", "loss_gen")):
    for name in losses:
        values = [line[name] for line in scalars if name in line]
        check(values and all(value is not None and math.isfinite(value) for value in values), f"{name} must be logged and finite")
        print(f"{name}: {values[0]:.3f} at first, {values[-1]:.3f} at last")
    end = lines[-1]
    check(end["event"] == "end", "the run must end")
    print("skipped steps:", {name: value for name, value in end.items() if name.endswith("skipped_steps")})
    for epoch in range(1, epochs + 1):
        grid = (work_dir / "samples" / f"epoch_{epoch}.png").read_bytes()
        check(grid.startswith(b"\x89PNG\r\n") and len(grid) > 1000, "each epoch must have its grid of samples")
    return end


def train_a_little(folder):
    _, lines, scalars = train("dcgan", folder / "plain", SMALL)
    end = check_gan(folder / "plain", lines, scalars, 1)
    check(end["step"] == 10 and end["skipped_steps"] == 0, "ten steps must be taken")

    # The generator's turn comes once in eight batches.
    _, lines, scalars = train("dcgan", folder / "accumulated", SMALL + for_both("accumulative_counts=8"))
    check_gan(folder / "accumulated", lines, scalars, 1)

    # A scale that overflows at first: steps are skipped, and said to be.
    output, lines, scalars = train("dcgan", folder / "float16",
                                   SMALL + for_both("dtype=float16", "loss_scale={init_scale: 4.0e6}"))
    end = check_gan(folder / "float16", lines, scalars, 1)
    told = re.findall(r"^(?:generator|discriminator): (\d+) of (\d+) steps were skipped because a gradient overflowed$", output, re.M)
    check(end["skipped_steps"] == sum(int(skipped) for skipped, _ in told) > 0, "skips must be reported")
    check(all(int(skipped) < int(updates) for skipped, updates in told), "each optimizer must take steps")
    check("rehearsed" in output, "float16 on the CPU must be rehearsed")


def train_in_full(folder):
    # One epoch of each is enough: 10 classes of 10 when this was written.
    train("mnist_cnn", folder / "classifier", ["train_cfg.max_epochs=1", "train_dataloader.dataset.limit=20000"])
    _, lines, scalars = train("dcgan", folder / "gan", ["train_cfg.max_epochs=1"])
    check_gan(folder / "gan", lines, scalars, 1)
    output = run(arguments.classes, folder / "gan", folder / "classifier", 1000, 0.8)
    seen = int(output.splitlines()[-1].split()[0])
    check(seen >= 8, "the classifier must see at least 8 of 10 classes with confidence above 0.8 in 1,000 samples")


with tempfile.TemporaryDirectory() as name:
    (train_in_full if arguments.in_full else train_a_little)(Path(name))
