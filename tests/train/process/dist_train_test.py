#!/usr/bin/env python3
"""Tests of `tools/dist_train.sh CONFIG N`, and so of `halfstep dist-train`, with ranks that train: what they reach, and what becomes of faults.

usage: dist_train_test.py --program BUILD/halfstep --faulty BUILD/…/halfstep_faulty --configs CONFIGS [unittest arguments]
"""
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jobs

LINE = ["bash", "tools/dist_train.sh", "configs/mnist_mlp.yaml", "2"]
ENDLESS = "train_cfg.max_epochs=100000"


class DistTrainTest(jobs.JobTest):
    def start_and_wait(self, *options):
        shutil.rmtree(self.dir / "run", ignore_errors=True)
        process = self.start([*LINE, *self.small(ENDLESS, *options)])
        self.wait_for_checkpoint(process)
        return process

    def finish_in_time(self, process, status, began):
        output = self.finish(process, status, within=4 * jobs.LIMIT)
        self.assertLess(time.monotonic() - began, jobs.LIMIT, output)
        return output

    def test_seeds_line_reaches_the_accuracy_of_one_process(self):
        if not Path("/usr/share/datasets/fashion-mnist").exists():
            self.skipTest(jobs.NOTHING + "this needs the package dataset-fashion-mnist")
        # To the letter, but for the names in capitals.
        line = "bash tools/dist_train.sh CONFIG GPUS --amp".replace("CONFIG", "configs/mnist_mlp.yaml").replace("GPUS", "2")
        accuracies = []
        for words in ([self.program, "train", "configs/mnist_mlp.yaml", "--amp", "--device", "cpu", "--work-dir", "run"], line.split()):
            output = self.run_job(words)
            self.assertRegex(output, r"linear b?float16 x\d+")
            accuracies.append(float(re.findall(r"^Epoch\(val\) .* accuracy: (\d\.\d{4})", output, re.M)[-1]))
        self.assertIn("process 0 of 2", output)
        self.assertTrue((self.dir / "work_dirs/mnist_mlp/ranks/rank_1/output.log").exists())
        self.assertGreater(accuracies[0], 0.84)
        self.assertGreater(accuracies[1], accuracies[0] - 0.005)

    def test_documented_line_trains(self):
        line = self.documented("halfstep dist-train")
        self.run_job([*line.split(), *self.small("train_cfg.max_epochs=6", "optim_wrapper.optimizer.lr=0.01")])
        self.check_trained()

    # No launcher at all: the line is typed once for each rank.
    def test_documented_line_by_hand_trains(self):
        line = self.documented("RANK=0").replace("MASTER_PORT=29500", f"MASTER_PORT={jobs.free_port()}")
        more = " ".join(self.small("train_cfg.max_epochs=6", "optim_wrapper.optimizer.lr=0.01"))
        lines = [line.replace("…", "configs/mnist_mlp.yaml --amp " + more).replace("RANK=0", f"RANK={rank}", 1)
                 .replace("LOCAL_RANK=0", f"LOCAL_RANK={rank}") for rank in (0, 1)]
        self.run_job(["bash", "-c", f"{lines[1]} & {lines[0]} && wait $!"])
        self.check_trained()

    def test_ports_are_free_ones_so_two_jobs_share_a_machine(self):
        first = self.start_and_wait()
        second = self.start([*LINE, "--device", "cpu", "--work-dir", "other", *self.small_data()])
        output = second.communicate(timeout=60)[0]
        self.assertEqual(second.returncode, 0, output)
        self.assertIn("process 0 of 2", output)
        first.send_signal(signal.SIGTERM)
        self.finish(first, 128 + signal.SIGTERM)

    def test_killed_rank(self):
        for rank in (0, 1):
            with self.subTest(rank):
                process = self.start_and_wait()
                victim = self.ranks_alive(2)[rank]
                began = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                output = self.finish_in_time(process, 128 + signal.SIGKILL, began)
                self.assertIn(f"error: [dist-train] all ranks must end well, but rank {rank} (process {victim}) was killed by SIGKILL", output)
                self.checkpoint_opens()

    def test_suspended_rank(self):
        process = self.start_and_wait()
        victim = self.ranks_alive(2)[1]
        began = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        output = self.finish_in_time(process, 1, began)
        self.assertIn(f"but rank 1 (process {victim}) was suspended (SIGSTOP) and did not go on", output)
        self.checkpoint_opens()

    # Alive, but it does not get on: in the middle of its third checkpoint or so.
    def test_hung_rank(self):
        process = self.start([*LINE, *self.small(ENDLESS, "env_cfg={dist_cfg: {timeout: 4}}")], HALFSTEP=self.faulty, HALFSTEP_HANG="half_written:4")
        step, began = -1, time.monotonic()
        while time.monotonic() < began + 1:  # until no checkpoint is added any more
            newest = self.wait_for_checkpoint(process)
            if newest != step:
                step, began = newest, time.monotonic()
            time.sleep(0.05)
        output = self.finish_in_time(process, 1, began)
        self.assertRegex(output, r"but rank 0 failed: it is alive, but stands at exchange \d+ where others are at \d+")
        self.checkpoint_opens()

    # Its log can't be written, once all have joined.
    def test_rank_that_throws(self):
        folder = self.dir / "run/ranks/rank_1"
        folder.mkdir(parents=True)
        (folder / "log.jsonl").symlink_to("/dev/full")
        began = time.monotonic()
        output = self.finish_in_time(self.start([*LINE, *self.small(ENDLESS), "--resume"]), 1, began)
        self.assertRegex(output, r"all ranks must go on together, but rank 1 failed: .*log\.jsonl' must take one more line, .*No space left on device")
        self.assertRegex(output, r"all ranks must end well, but rank 1 \(process \d+\) ended with status 1; its last lines:\n.*No space left")

    # Before it joins: the others would wait for minutes.
    def test_rank_that_throws_at_once(self):
        (self.dir / "run/ranks").mkdir(parents=True)
        (self.dir / "run/ranks/rank_1").touch()
        began = time.monotonic()
        self.log_of = lambda rank: ""
        output = self.finish_in_time(self.start([*LINE, *self.small()]), 1, began)
        self.assertRegex(output, r"but rank 1 \(process \d+\) ended with status 1; its last lines:\n"
                                 r"  error: \[log\] '.*rank_1/output.log' must be writable")

    def test_signal_saves_and_resume_goes_on(self):
        for number in (signal.SIGUSR1, signal.SIGTERM):
            process = self.start_and_wait()
            process.send_signal(number)
            output = self.finish(process, 128 + number)
            step = int(re.search(rf"stopped by {number.name} after step (\d+)", output)[1])
            output = self.run_job([*LINE, *self.small(f"train_cfg.max_epochs={step // 4 + 2}"), "--resume"])
            self.assertIn(f"after step {step}", output)

    def test_without_the_command_the_script_says_so(self):
        shutil.copytree(self.configs.parent / "tools", self.dir / "unbuilt/tools")
        for script in ("dist_train.sh", "slurm_train.sh"):
            result = subprocess.run(["bash", f"unbuilt/tools/{script}", "x.yaml", "2"], capture_output=True, text=True, cwd=self.dir,
                                    env={"PATH": "/usr/bin:/bin"})
            self.assertEqual(result.returncode, 1)
            self.assertIn(f"error: [{script}] the command halfstep must be built (make build), in PATH or named in HALFSTEP, but is not", result.stderr)


if __name__ == "__main__":
    jobs.main()
