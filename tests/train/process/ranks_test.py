#!/usr/bin/env python3
"""Tests of `halfstep train` as the ranks of a job, each a process on this machine: what it reaches, and what becomes of faults.

usage: ranks_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import json
import os
import re
import shutil
import signal
import socket
import time

import jobs


class RanksTest(jobs.JobTest):
    def setUp(self):
        super().setUp()
        self.processes = []
        self.addCleanup(self.end_all)

    def end_all(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()

    def start_ranks(self, *arguments, ranks=2, port=None, options=(), own_options=None):
        """A job as torchrun would start it. own_options: more --cfg-options of one rank each."""
        port = port or jobs.free_port()
        self.processes = [
            self.start([self.program, "train", "configs/mnist_mlp.yaml", *self.small(*options, *(own_options or {}).get(rank, ())), *arguments],
                       RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1",
                       MASTER_PORT=str(port))
            for rank in range(ranks)]

    def finish_ranks(self, *statuses, within=60):
        """What each rank has printed on the console, and with which status it ended."""
        end = time.monotonic() + within
        outputs = [process.communicate(timeout=max(0.1, end - time.monotonic()))[0] for process in self.processes]
        for rank, (process, status) in enumerate(zip(self.processes, statuses)):
            self.assertEqual(process.returncode, status, f"rank {rank}:\n{outputs[rank]}\n{self.log_of(rank)}")
        return outputs

    def test_two_ranks_train_and_each_has_a_log(self):
        self.start_ranks("--amp")
        first, second = self.finish_ranks(0, 0)
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
                self.start_ranks(options=["train_cfg.max_epochs=100000"])
                self.wait_for_checkpoint()
                began = time.monotonic()
                self.processes[rank].kill()
                statuses = [1, 1]
                statuses[rank] = -signal.SIGKILL
                outputs = self.finish_ranks(*statuses, within=jobs.LIMIT)
                self.assertLess(time.monotonic() - began, jobs.LIMIT)
                self.assertRegex(outputs[1 - rank] + self.log_of(1 - rank),
                                 rf"all ranks must go on together, but rank {rank} failed: it (gives no sign|does not answer)")
                self.checkpoint_opens()

    def test_suspended_rank_ends_the_job(self):
        for rank in (0, 1):
            with self.subTest(rank=rank):
                shutil.rmtree(self.dir / "run", ignore_errors=True)
                self.start_ranks(options=["train_cfg.max_epochs=100000"])
                self.wait_for_checkpoint()
                self.processes[rank].send_signal(signal.SIGSTOP)
                other = self.processes[1 - rank]
                output, _ = other.communicate(timeout=jobs.LIMIT)
                self.assertEqual(other.returncode, 1, output)
                self.assertRegex(output + self.log_of(1 - rank), rf"but rank {rank} failed: it (gives no sign|does not answer)")
                self.end_all()

    def test_error_of_a_rank_is_told_by_all(self):
        bad = self.dir / "bad"
        shutil.copytree(self.data, bad)
        images = bad / "train-images-idx3-ubyte.gz"
        images.write_bytes(images.read_bytes()[:6000])
        self.start_ranks(own_options={1: [f"train_dataloader.dataset.root={bad}"]})
        first, second = self.finish_ranks(1, 1, within=jobs.LIMIT)
        self.assertIn("train-images-idx3-ubyte.gz", second)
        self.assertRegex(first, r"all ranks must go on together, but rank 1 failed: .*train-images-idx3-ubyte.gz")

    def test_configs_that_differ(self):
        self.start_ranks(own_options={1: ["optim_wrapper.optimizer.lr=0.5"]})
        for output in self.finish_ranks(2, 2, within=jobs.LIMIT):
            self.assertIn("the config (with --amp, --seed and --device) must be the same on all ranks, but rank 1 differs from rank 0",
                          output)
            self.assertIn('"lr": 0.5', output)
        self.assertFalse(list((self.dir / "run" / "checkpoints").glob("step_*")))

    def test_busy_port(self):
        with socket.socket() as busy:
            busy.bind(("", 0))
            busy.listen()
            port = busy.getsockname()[1]
            self.start_ranks(port=port)
            output = self.processes[0].communicate(timeout=30)[0]
            self.assertEqual(self.processes[0].returncode, 1)
            self.assertIn(f"rank 0 must listen on port {port}, but another program does; choose a free MASTER_PORT", output)

    def test_signal_saves_and_resume_goes_on(self):
        self.start_ranks(options=["train_cfg.max_epochs=100000"])
        self.wait_for_checkpoint()
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        first, _ = self.finish_ranks(143, 143, within=jobs.LIMIT)
        step = int(re.search(r"stopped by SIGTERM after step (\d+)", first).group(1))
        self.assertIn(f"stopped by SIGTERM after step {step}", self.log_of(1))
        self.assertTrue((self.dir / "run" / "checkpoints" / f"step_{step:08}.safetensors").exists())
        self.start_ranks("--resume", options=[f"train_cfg.max_epochs={step // 4 + 2}"])
        first, _ = self.finish_ranks(0, 0)
        self.assertIn(f"after step {step}", first)


if __name__ == "__main__":
    jobs.main()
