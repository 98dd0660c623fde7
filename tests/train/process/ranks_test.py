#!/usr/bin/env python3
"""Tests of `halfstep train` as the ranks of a job, each a process on this machine: what it reaches, and what becomes of faults.

usage: ranks_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from tiny_data import write_idx

PROGRAM = ""
CONFIGS = Path()
# The issue's: within so many seconds after a rank has failed, the job has ended.
LIMIT = 15


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class RanksTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="halfstep-ranks-")
        self.addCleanup(self.folder.cleanup)
        self.dir = Path(self.folder.name)
        self.data = self.dir / "data"
        self.processes = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()

    def start(self, *arguments, ranks=2, port=None, options=(), own_options=None):
        """A job as torchrun would start it. own_options: more --cfg-options of one rank each."""
        if not self.data.exists():
            write_idx(self.data)
        port = port or free_port()
        self.processes = []
        for rank in range(ranks):
            environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank),
                                        "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                                        "OMP_NUM_THREADS": "1"}
            more = (own_options or {}).get(rank, ())
            command = [PROGRAM, "train", CONFIGS / "mnist_mlp.yaml", "--device", "cpu", "--work-dir", "run", *arguments,
                       "--cfg-options", f"train_dataloader.dataset.root={self.data}", f"test_dataloader.dataset.root={self.data}",
                       "test_dataloader.batch_size=30", *options, *more]
            self.processes.append(subprocess.Popen([str(word) for word in command], cwd=self.dir, env=environment, text=True,
                                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        return self.processes

    def finish(self, *statuses, within=60):
        """What each rank has printed on the console, and with which status it ended."""
        end = time.monotonic() + within
        outputs = [process.communicate(timeout=max(0.1, end - time.monotonic()))[0] for process in self.processes]
        for rank, (process, status) in enumerate(zip(self.processes, statuses)):
            self.assertEqual(process.returncode, status, f"rank {rank}:\n{outputs[rank]}\n{self.log_of(rank)}")
        return outputs

    def log_of(self, rank):
        file = self.dir / "run" / "ranks" / f"rank_{rank}" / "output.log"
        return file.read_text() if file.exists() else ""

    def wait_for_checkpoint(self):
        end = time.monotonic() + 30
        while not list((self.dir / "run" / "checkpoints").glob("step_*")):
            self.assertLess(time.monotonic(), end, "no checkpoint")
            time.sleep(0.01)

    def checkpoint_opens(self):
        """The last one is whole: one process goes on from it."""
        result = subprocess.run([PROGRAM, "train", CONFIGS / "mnist_mlp.yaml", "--device", "cpu", "--work-dir", "run", "--resume",
                                 "--cfg-options", f"train_dataloader.dataset.root={self.data}",
                                 f"test_dataloader.dataset.root={self.data}", "test_dataloader.batch_size=30",
                                 "train_cfg.max_epochs=1"], cwd=self.dir, capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("was written by 2 processes with batches of 64, this run has 1 process", result.stderr)

    def test_two_ranks_train_and_each_has_a_log(self):
        self.start("--amp")
        first, second = self.finish(0, 0)
        self.assertEqual(second, "", "only the first rank prints on the console")
        self.assertIn("process 0 of 2 (gloo)", first)
        self.assertIn("480 training examples in 4 batches of 128 (2 x 64)", first)
        self.assertRegex(first, r"linear bfloat16 x\d+")
        self.assertIn("process 1 of 2 (gloo)", self.log_of(1))
        self.assertIn("Epoch(val) [2]", self.log_of(1))
        logs = [[json.loads(line) for line in file.read_text().splitlines()]
                for file in (self.dir / "run" / "log.jsonl", self.dir / "run" / "ranks" / "rank_1" / "log.jsonl")]
        self.assertEqual([line["rank_seeds"] for log in logs for line in log if line["event"] == "start"], [[0, 1], [0, 1]])
        # Measured over all examples on each.
        results = [[(line["test_accuracy"], line["test_loss"]) for line in log if "test_loss" in line] for log in logs]
        self.assertEqual(results[0], results[1])
        self.assertTrue(results[0])

    def test_killed_rank_ends_the_job(self):
        for rank in (0, 1):
            with self.subTest(rank=rank):
                shutil.rmtree(self.dir / "run", ignore_errors=True)
                self.start(options=["train_cfg.max_epochs=100000"])
                self.wait_for_checkpoint()
                began = time.monotonic()
                self.processes[rank].kill()
                statuses = [1, 1]
                statuses[rank] = -signal.SIGKILL
                outputs = self.finish(*statuses, within=LIMIT)
                self.assertLess(time.monotonic() - began, LIMIT)
                self.assertRegex(outputs[1 - rank] + self.log_of(1 - rank),
                                 rf"all ranks must go on together, but rank {rank} failed: it (gives no sign|does not answer)")
                self.checkpoint_opens()

    def test_suspended_rank_ends_the_job(self):
        for rank in (0, 1):
            with self.subTest(rank=rank):
                shutil.rmtree(self.dir / "run", ignore_errors=True)
                self.start(options=["train_cfg.max_epochs=100000"])
                self.wait_for_checkpoint()
                self.processes[rank].send_signal(signal.SIGSTOP)
                other = self.processes[1 - rank]
                output, _ = other.communicate(timeout=LIMIT)
                self.assertEqual(other.returncode, 1, output)
                self.assertRegex(output + self.log_of(1 - rank), rf"but rank {rank} failed: it (gives no sign|does not answer)")
                self.end_all()

    def test_error_of_a_rank_is_told_by_all(self):
        write_idx(self.data)
        bad = self.dir / "bad"
        shutil.copytree(self.data, bad)
        images = bad / "train-images-idx3-ubyte.gz"
        images.write_bytes(images.read_bytes()[:6000])
        self.start(own_options={1: [f"train_dataloader.dataset.root={bad}"]})
        first, second = self.finish(1, 1, within=LIMIT)
        self.assertIn("train-images-idx3-ubyte.gz", second)
        self.assertRegex(first, r"all ranks must go on together, but rank 1 failed: .*train-images-idx3-ubyte.gz")

    def test_configs_that_differ(self):
        self.start(own_options={1: ["optim_wrapper.optimizer.lr=0.5"]})
        for output in self.finish(2, 2, within=LIMIT):
            self.assertIn("the config (with --amp, --seed and --device) must be the same on all ranks, but rank 1 differs from rank 0",
                          output)
            self.assertIn('"lr": 0.5', output)
        self.assertFalse(list((self.dir / "run" / "checkpoints").glob("step_*")))

    def test_busy_port(self):
        with socket.socket() as busy:
            busy.bind(("", 0))
            busy.listen()
            port = busy.getsockname()[1]
            self.start(port=port)
            output = self.processes[0].communicate(timeout=30)[0]
            self.assertEqual(self.processes[0].returncode, 1)
            self.assertIn(f"rank 0 must listen on port {port}, but another program does; choose a free MASTER_PORT", output)

    def test_signal_saves_and_resume_goes_on(self):
        self.start(options=["train_cfg.max_epochs=100000"])
        self.wait_for_checkpoint()
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        first, _ = self.finish(143, 143, within=LIMIT)
        step = int(re.search(r"stopped by SIGTERM after step (\d+)", first).group(1))
        self.assertIn(f"stopped by SIGTERM after step {step}", self.log_of(1))
        self.assertTrue((self.dir / "run" / "checkpoints" / f"step_{step:08}.safetensors").exists())
        self.start("--resume", options=[f"train_cfg.max_epochs={step // 4 + 2}"])
        first, _ = self.finish(0, 0)
        self.assertIn(f"after step {step}", first)

    def test_dist_train_reaches_the_accuracy_of_one_process(self):
        accuracies = []
        for words in (["train"], ["dist-train"]):
            where = "-".join(words)
            command = [PROGRAM, *words, CONFIGS / "mnist_mlp.yaml", *(["2"] if "dist-train" in words else []), "--amp",
                       "--work-dir", where]
            result = subprocess.run([str(word) for word in command], cwd=self.dir, capture_output=True, text=True, timeout=300)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
            lines = [json.loads(line) for line in (self.dir / where / "log.jsonl").read_text().splitlines()]
            accuracies.append([line["test_accuracy"] for line in lines if "test_accuracy" in line][-1])
        self.assertGreater(accuracies[0], 0.8)
        self.assertGreater(accuracies[1], accuracies[0] - 0.005)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--configs", required=True)
    arguments, rest = parser.parse_known_args()
    PROGRAM = arguments.program
    CONFIGS = Path(arguments.configs)
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
