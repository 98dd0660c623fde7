#!/usr/bin/env python3
"""Tests of `halfstep print-config`, and of the commands in the pages for those who come from elsewhere.

usage: print_config_test.py --program BUILD/halfstep --source ROOT [unittest arguments]
"""
import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tiny_data import write_idx

PROGRAM = ""
SOURCE = Path()

BASE = """\
model: {type: Mlp, sizes: [784, 16, 10]}
loss: {type: CrossEntropyLoss}
train_dataloader: {batch_size: 60, dataset: {type: Mnist, root: data}}
optim_wrapper: {optimizer: {type: Adam, lr: 1.0e-2}}
"""


class PrintConfigTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="halfstep-print-config-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)
        (self.dir / "base.yaml").write_text(BASE)

    def halfstep(self, *arguments, status=0, environment=None):
        result = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.dir, capture_output=True, text=True, timeout=300,
                                env=os.environ | (environment or {}))
        self.assertEqual(result.returncode, status, f"{arguments}:\n{result.stdout}{result.stderr}")
        return result

    def printed(self, text, *options, environment=None):
        (self.dir / "x.yaml").write_text(text)
        return self.halfstep("print-config", "x.yaml", *options, environment=environment).stdout

    def test_shows_what_is_inherited_substituted_and_given_on_the_command_line(self):
        text = "_base_: base.yaml\noptim_wrapper: {optimizer: {lr: {{$HALFSTEP_TEST_LR:0.5}}}}\nmodel: {sizes: {{_base_.model.sizes}}}\n"
        expected = ("model:\n  type: Mlp\n  sizes: [784, 16, 10]\nloss:\n  type: CrossEntropyLoss\ntrain_dataloader:\n  batch_size: 60\n  dataset:\n"
                    "    type: Mnist\n    root: data\noptim_wrapper:\n  optimizer:\n    type: Adam\n    lr: {}\n")
        self.assertEqual(self.printed(text), expected.replace("{}", "0.5"))
        self.assertEqual(self.printed(text, environment={"HALFSTEP_TEST_LR": "2e-3"}), expected.replace("{}", "2e-3"))
        output = self.printed(text, "--cfg-options", "model.sizes=784,10", "--cfg-options", "train_dataloader.shuffle=True", "a=(1,None)")
        self.assertIn("  sizes: [784, 10]\n", output)
        self.assertIn("  shuffle: true\n", output)
        self.assertTrue(output.endswith("a: [1, null]\n"))
        self.assertEqual(self.printed(output), output)

    def test_amp_and_fp16(self):
        self.assertIn("  type: AmpOptimWrapper\n", self.printed(BASE, "--amp"))
        output = self.printed(BASE + "fp16: {loss_scale: 512.}\n")
        self.assertTrue(output.endswith("  type: AmpOptimWrapper\n  dtype: float16\n  loss_scale: 512.\n"))
        self.assertNotIn("fp16:", output)
        (self.dir / "x.yaml").write_text(BASE + "fp16: {loss_scale: 512.}\n")
        self.assertIn("warning: --amp changes nothing: fp16 (x.yaml:5) already has type AmpOptimWrapper",
                      self.halfstep("print-config", "x.yaml", "--amp").stderr)

    def test_resolved_is_what_a_run_saves(self):
        write_idx(self.dir / "data")
        (self.dir / "x.yaml").write_text("_base_: base.yaml\nfp16: {loss_scale: 64}\n")
        options = ("--device", "cpu", "--cfg-options", "model.activation=gelu")
        output = self.halfstep("print-config", "x.yaml", "--resolved", *options).stdout
        self.assertFalse((self.dir / "work_dirs").exists())
        self.halfstep("train", "x.yaml", *options)
        self.assertEqual((self.dir / "work_dirs" / "x" / "config.yaml").read_text(), output)
        self.assertIn("betas: [0.9, 0.999]", output)
        self.assertNotIn("_base_", output)

    def test_mistakes_name_their_file(self):
        (self.dir / "x.yaml").write_text("_base_: base.yaml\noptim_wrapper: {optimizer: {lr: fast}}\n")
        self.halfstep("print-config", "x.yaml")  # values are read with --resolved
        (self.dir / "base.yaml").write_text(BASE + "train_cfg: {max_epoch: 3}\n")
        write_idx(self.dir / "data")
        for config, expected in {"_base_: base.yaml\noptim_wrapper: {optimizer: {lr: fast}}\n": "x.yaml:2: optim_wrapper.optimizer.lr must be a number",
                                 "_base_: base.yaml\n": "base.yaml:5: unknown key 'max_epoch' in train_cfg; allowed: by_epoch, dynamic_intervals, max_epochs",
                                 "_base_: none.yaml\n": "x.yaml:1: _base_ must name files that can be read, but got none.yaml",
                                 "a: {{$HALFSTEP_TEST_UNSET}}\n": "x.yaml:1: {{$HALFSTEP_TEST_UNSET}} must have a value",
                                 "optimizer: {type: Adam}\n": "x.yaml:1: optimizer is a key of MMCV's configs"}.items():
            (self.dir / "x.yaml").write_text(config)
            self.assertIn(expected, self.halfstep("print-config", "x.yaml", "--resolved", status=2).stderr)
        self.assertIn("keys are checked", " ".join(self.halfstep("print-config", "--help").stdout.split()))

    def test_the_gan_of_the_openmmlab_page_trains(self):
        page = (SOURCE / "docs" / "coming-from-openmmlab.md").read_text(encoding="utf-8")
        block, = (block for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "constructor:" in block)
        write_idx(self.dir / "data", train=16)
        shutil.copytree(SOURCE / "configs", self.dir / "configs")
        (self.dir / "x.yaml").write_text("_base_: configs/dcgan.yaml\nmodel: {generator: {base_channels: 4}, discriminator: {base_channels: 4}}\n"
                                         "train_dataloader: {batch_size: 1, dataset: {root: data}}\ntrain_cfg: {max_epochs: 1}\n" + block)
        self.halfstep("train", "x.yaml", "--device", "cpu")
        saved = self.halfstep("print-config", "work_dirs/x/config.yaml").stdout
        self.assertEqual(saved.count("accumulative_counts: 8"), 2)
        self.assertEqual(saved.count("eps: 1.0e-6"), 2)
        end = json.loads((self.dir / "work_dirs" / "x" / "log.jsonl").read_text().splitlines()[-1])
        self.assertEqual((end["generator.lr"], end["discriminator.lr"], end["skipped_steps"]), (1e-4, 4e-4, 0))

    def test_commands_of_the_pages_run(self):
        write_idx(self.dir / "data")
        for folder in ("configs", "tools"):
            shutil.copytree(SOURCE / folder, self.dir / folder)
        ran = set()
        for name, least in {"coming-from-openmmlab": 3, "fp16-or-bf16": 3, "loss-scaling": 3, "diagnosis": 1}.items():
            page = (SOURCE / "docs" / f"{name}.md").read_text(encoding="utf-8")
            lines = [line for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
            self.assertGreaterEqual(len(lines), least)
            for line in lines:
                if line in ran:
                    continue
                ran.add(line)
                with self.subTest(f"{name}: {line}"):
                    self.run_line(line)

    def run_line(self, line):
        program, *arguments = shlex.split(line)
        if program == "python3":
            subprocess.run([sys.executable, *arguments], cwd=self.dir, check=True)
            self.assertGreater((self.dir / arguments[arguments.index("-o") + 1]).stat().st_size, 0)
            return
        self.assertEqual(program, "halfstep")
        if "--device" not in arguments:
            arguments += ["--device", "cpu"]
        output = self.halfstep(*arguments, "--cfg-options", *(f"{key}_dataloader.dataset.root=data" for key in ("train", "test"))).stdout
        for option, printed in (("--trace-overflow", "first inf or NaN"), ("--precision-report", "ops ran in 16 bits")):
            self.assertEqual(option in arguments, printed in output, output)
        expected = "type: AmpOptimWrapper" if arguments[0] == "print-config" else "float16" if "_fp16" in arguments[1] else "bfloat16"
        self.assertIn(expected, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--source", type=Path, required=True)
    known, rest = parser.parse_known_args()
    PROGRAM = str(Path(known.program).resolve())
    SOURCE = known.source.resolve()
    unittest.main(argv=[sys.argv[0], *rest])
