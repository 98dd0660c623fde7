#!/usr/bin/env python3
"""`halfstep report` of runs of the command; with a Chromium in PATH also what its page draws.

usage: report_test.py --program BUILD/halfstep --configs CONFIGS [unittest arguments]
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tiny_data import write_idx

PROGRAM = ""
CONFIGS = Path()
# A scale that overflows at first.
FLOAT16 = ["optim_wrapper.dtype=float16", "optim_wrapper.loss_scale={init_scale: 1e9, growth_interval: 20}"]


class ReportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="halfstep-report-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def halfstep(self, *arguments, status=0):
        result = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.dir, capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, status, f"{arguments}:\n{result.stdout}{result.stderr}")
        return result.stdout + result.stderr

    def train(self, *arguments, status=0, options=()):
        write_idx(self.dir / "data")
        return self.halfstep("train", CONFIGS / "mnist_mlp.yaml", "--amp", "--device", "cpu", "--work-dir", "w", *arguments, "--cfg-options",
                             f"train_dataloader.dataset.root={self.dir}/data", f"test_dataloader.dataset.root={self.dir}/data",
                             "default_hooks.logger.interval=5", "train_dataloader.batch_size=16", *options, status=status)

    def data(self, file="w/report.html"):
        page = (self.dir / file).read_text()
        return json.loads(re.search(r'<script id="run" type="application/json">(.*?)</script>', page, re.S)[1])

    def test_page_has_all_of_a_run(self):
        output = self.train("--precision-report", "--trace-overflow", options=FLOAT16)
        skipped = int(re.search(r"(\d+) of 60 steps were skipped", output)[1])
        self.assertGreater(skipped, 0, "no overflow happened: the test proves nothing")
        output = self.halfstep("report", "w")
        self.assertEqual(output, f"w/report.html: the run in w, 12 lines of training, 2 validations, {skipped} skipped steps\n")
        run = self.data()
        self.assertEqual([line["step"] for line in run["train"]], list(range(5, 61, 5)))
        for key in ("loss", "lr", "loss_scale", "memory", "skipped_steps"):
            self.assertIn(key, run["train"][-1])
        self.assertGreater(run["train"][-1]["time"], 0)
        self.assertGreater(run["train"][-1]["memory"], 50)
        self.assertEqual(len(run["skips"]), skipped)
        # The scale falls at each skipped step.
        self.assertEqual([line["loss_scale"] for line in run["skips"][:3]], [5e8, 2.5e8, 1.25e8])
        self.assertEqual([line["step"] for line in run["skips"][:3]], [1, 2, 3])
        self.assertGreater(len(run["overflows"]), 0)
        self.assertGreater(len(run["precision"]["forward"]["ops"]), 0)
        self.assertTrue(run["end"]["finished"])
        self.assertIn("linear float16", run["end"]["dtypes"])
        self.assertGreater(run["begin"]["machine"]["cores"], 0)
        self.assertIn("type: Mlp", run["config"])
        self.assertEqual(run["unreadable_lines"], 0)

    def test_a_stopped_run_that_goes_on(self):
        self.train(options=["custom_hooks=[{type: EarlyStoppingHook, monitor: accuracy, patience: 1, min_delta: 5.0}]", "train_cfg.max_epochs=4"])
        self.halfstep("report", "w", "-o", "one.html")
        self.assertFalse(self.data("one.html")["end"]["finished"])
        self.assertFalse((self.dir / "w/report.html").exists())

    def test_a_run_that_fails(self):
        output = self.train(status=2, options=["optim_wrapper.optimizer={type: SGD, lr: 1.0e+30}"])
        self.assertIn("the loss must be finite", output)
        self.halfstep("report", "w")
        end = self.data()["end"]
        self.assertEqual(end["event"], "error")
        self.assertIn("error: " + end["error"], output)
        self.assertGreater(end["step"], 0)

    def test_errors(self):
        (self.dir / "empty").mkdir()
        self.assertIn("error: [report] WORK_DIR must be the folder of a run, with its log.jsonl, but 'empty' has none; "
                      "give the --work-dir of a run (work_dirs/CONFIG_NAME)\n", self.halfstep("report", "empty", status=2))
        self.train()
        self.assertIn("missing/page.html", self.halfstep("report", "w", "-o", "missing/page.html", status=1))

    def test_page_draws_itself(self):
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if not browser:
            self.skipTest("NOTHING WAS TESTED: no Chromium in PATH draws the page")
        self.train(options=FLOAT16)
        self.halfstep("report", "w")
        result = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--window-size=1200,2000",
                                 f"--user-data-dir={self.dir}/browser", "--dump-dom", f"file://{self.dir}/w/report.html"],
                                capture_output=True, text=True, timeout=120)
        drawn = result.stdout
        titles = re.findall(r"<h3>(.*?)</h3>", drawn)
        self.assertEqual(titles, ["Loss", "Validation accuracy", "Loss scale", "Learning rate", "Time a step", "Memory, at most so far"])
        self.assertEqual(len(re.findall(r"<svg ", drawn)), len(titles))
        self.assertEqual(drawn.count('class="mark"'), 2 * len(self.data()["skips"]), "loss and loss scale mark each skipped step")
        self.assertIn("Finished after 60 steps.", drawn)
        self.assertRegex(drawn, r"Skipped steps</span><b>\d+ of 60</b>")
        self.assertNotIn("NaN", re.sub(r"<script.*?</script>", "", drawn, flags=re.S))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--configs", type=Path, required=True)
    options, rest = parser.parse_known_args()
    PROGRAM, CONFIGS = options.program, options.configs
    unittest.main(argv=[sys.argv[0], *rest])
