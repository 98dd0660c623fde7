"""What the tests of small training jobs of several processes share."""
import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from processes import Marked
from tiny_data import write_idx

# Within so many seconds after a rank has failed, its whole job has ended.
LIMIT = 15
# What a test prints that could not run here; scripts/test counts it.
NOTHING = "SKIPPED, NOTHING WAS TESTED: "
NOT_RUN = 77  # as an exit status: the SKIP_RETURN_CODE of these tests


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class JobTest(unittest.TestCase):
    """A folder with a small data set, in which jobs run whose processes are found again. main() sets what comes first."""

    program = ""
    faulty = ""
    configs = Path()

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="halfstep-job-")
        self.addCleanup(self.folder.cleanup)
        self.dir = Path(self.folder.name)
        self.data = self.dir / "data"
        write_idx(self.data)
        # As in a clone: launch lines begin with tools/ and configs/.
        for name in ("tools", "configs"):
            (self.dir / name).symlink_to(self.configs.parent.resolve() / name)
        self.marked = Marked()
        self.marked.environment |= {"HALFSTEP": self.program, "OMP_NUM_THREADS": "1",
                                    "PATH": f"{Path(self.program).parent}:{os.environ['PATH']}"}
        self.addCleanup(self.kill_the_rest)

    def kill_the_rest(self):
        for process in self.marked.alive():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def small(self, *options):
        """The options of `halfstep train` that make configs/mnist_mlp.yaml a small run on the CPU, and more of the config's."""
        return ["--device", "cpu", "--work-dir", "run", *self.small_data(*options)]

    def small_data(self, *options):
        return ["--cfg-options", f"train_dataloader.dataset.root={self.data}", f"test_dataloader.dataset.root={self.data}",
                "test_dataloader.batch_size=30", *options]

    def start(self, words, **environment):
        """A job in the test's folder, both streams together."""
        return subprocess.Popen([str(word) for word in words], cwd=self.dir, env=self.marked.environment | environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def finish(self, process, status, within=60):
        """What it has printed; nothing of it may be left."""
        output, _ = process.communicate(timeout=within)
        self.assertEqual(process.returncode, status, output + self.log_of(1))
        self.assertEqual(self.marked.wait_for_end(), {}, "processes were left behind:\n" + output)
        return output

    def run_job(self, words, status=0, **environment):
        return self.finish(self.start(words, **environment), status, within=120)

    def ranks_alive(self, count):
        """The process ids of the ranks of a job that trains, by rank."""
        ranks = {}
        for process, line in self.marked.alive().items():
            try:
                variables = Path(f"/proc/{process}/environ").read_text().split("\0")
            except OSError:
                continue
            found = {entry.partition("=")[0]: entry.partition("=")[2] for entry in variables}
            rank = found.get("RANK", found.get("SLURM_PROCID", found.get("OMPI_COMM_WORLD_RANK")))
            if rank is not None and " train " in f"{line} " and Path(line.split()[0]).name.startswith("halfstep"):
                ranks[int(rank)] = process
        self.assertEqual(sorted(ranks), list(range(count)))
        return [ranks[rank] for rank in range(count)]

    def documented(self, start, page="docs/distributed.md"):
        """The line of the page that begins so, as a user copies it: without its comment."""
        lines = [line.partition(" #")[0].strip() for line in (self.configs.parent / page).read_text().splitlines() if line.startswith(start)]
        self.assertEqual(len(lines), 1, f"{page} must have one line that begins with {start}")
        return lines[0]

    def log_of(self, rank):
        file = self.dir / "run" / "ranks" / f"rank_{rank}" / "output.log"
        return file.read_text() if file.exists() else ""

    def json_log(self, rank=0):
        folder = self.dir / "run" if rank == 0 else self.dir / "run" / "ranks" / f"rank_{rank}"
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    def accuracy(self, rank=0):
        return [line["test_accuracy"] for line in self.json_log(rank) if "test_accuracy" in line][-1]

    def wait_for_checkpoint(self, process=None, after=-1):
        """Until there is one of a step after that; its step."""
        end = time.monotonic() + 60
        while True:
            steps = [int(file.stem[5:]) for file in (self.dir / "run" / "checkpoints").glob("step_*.safetensors")]
            if max(steps, default=-1) > after:
                return max(steps)
            if process is not None and process.poll() is not None:
                self.fail(f"it has ended with {process.returncode} before a checkpoint:\n{process.communicate()[0]}")
            self.assertLess(time.monotonic(), end, "no checkpoint")
            time.sleep(0.01)

    def checkpoint_opens(self):
        """The last one is whole: one process goes on from it."""
        result = subprocess.run([str(word) for word in (self.program, "train", "configs/mnist_mlp.yaml", *self.small("train_cfg.max_epochs=1"),
                                                        "--resume")], cwd=self.dir, capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("resumed from", result.stdout)
        return result.stdout + result.stderr

    def check_trained(self, backend="gloo"):
        """Two ranks have trained to the end, in mixed precision, and measured the same."""
        self.assertIn(f"process 1 of 2 ({backend})", self.log_of(1))
        self.assertRegex(self.log_of(1), r"linear bfloat16 x\d+")
        self.assertEqual([line["rank_seeds"] for rank in (0, 1) for line in self.json_log(rank) if line["event"] == "start"], [[0, 1]] * 2)
        self.assertGreater(self.accuracy(), 0.9)
        self.assertEqual(self.accuracy(0), self.accuracy(1))


def skip_all(why):
    """Ends the test program as one that could not run here."""
    print(f"{NOTHING}{why}")
    sys.exit(NOT_RUN)


def main():
    """Runs the tests of the calling program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--faulty", help="the command with a flaw (faulty_main.cpp)")
    parser.add_argument("--configs", required=True)
    arguments, rest = parser.parse_known_args()
    JobTest.program = os.path.abspath(arguments.program)
    JobTest.faulty = arguments.faulty and os.path.abspath(arguments.faulty)
    JobTest.configs = Path(arguments.configs).resolve()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
