#!/usr/bin/env python3
"""Tests of tools/plot_loss_scale.py: what it reads, where it draws, and what it says of a log without a loss scale."""
import json
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/plot_loss_scale.py"
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOOL.parent))
from plot_loss_scale import HEIGHT, WIDTH, Point, read_points, skips, svg, tick_step  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def entry(step, scale, skipped, event="train", name=""):
    return {"event": event, "step": step, f"{name}skipped_steps": skipped, f"{name}loss_scale": scale}


class PlotLossScale(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="halfstep-plot-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def write(self, *entries):
        log = self.dir / "log.jsonl"
        log.write_text("".join(json.dumps(each) + "\n" for each in entries))
        return log

    def run_tool(self, *arguments):
        return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)

    def test_reads_the_lines_of_training_steps(self):
        log = self.write({"event": "start", "step": 0, "loss_scale": "dynamic, from 1024"}, entry(1, 512.0, 1), entry(2, 512.0, 1),
                         entry(2, 512.0, 1, event="epoch"))
        self.assertEqual(read_points(log), [Point(1, 512.0, 1), Point(2, 512.0, 1)])

    def test_a_step_made_again_counts_once(self):
        log = self.write(entry(1, 8.0, 0), entry(2, 4.0, 1), {"event": "resume", "step": 1}, entry(2, 8.0, 0), entry(3, 16.0, 0))
        self.assertEqual(read_points(log), [Point(1, 8.0, 0), Point(2, 8.0, 0), Point(3, 16.0, 0)])

    def test_marks_where_steps_were_skipped(self):
        points = [Point(1, 4.0, 1), Point(2, 4.0, 1), Point(3, 1.0, 3), Point(4, 1.0, 3)]
        self.assertEqual([point.step for point in skips(points)], [1, 3])

    def test_ticks(self):
        self.assertEqual([tick_step(span, 5) for span in (1, 5, 6, 100, 938, 1876)], [1, 1, 2, 20, 200, 500])

    def test_draws_all_of_it_inside(self):
        points = [Point(step, 2.0 ** (30 - min(step, 14) + step // 100), min(step, 14)) for step in range(1, 1877)]
        root = ElementTree.fromstring(svg(points))
        texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
        self.assertIn("skipped step (14 of 1876)", texts)
        self.assertIn("step", texts)
        self.assertIn("1500", texts)
        circles = list(root.iter(f"{SVG}circle"))
        self.assertEqual(len(circles), 14 + 1)  # and the one that says what they are
        for circle in circles:
            self.assertTrue(0 < float(circle.get("cx")) < WIDTH and 0 < float(circle.get("cy")) < HEIGHT)
        heights = [float(circle.get("cy")) for circle in circles[1:]]
        self.assertEqual(heights, sorted(heights), "a scale that falls is drawn lower and lower")

    def test_one_point_and_a_scale_that_stays(self):
        for points in ([Point(1, 512.0, 0)], [Point(step, 512.0, 0) for step in (50, 100)]):
            root = ElementTree.fromstring(svg(points))
            self.assertEqual(len(list(root.iter(f"{SVG}circle"))), 1)

    def test_command(self):
        self.write(entry(1, 8.0, 0), entry(2, 4.0, 1))
        for source in (self.dir, self.dir / "log.jsonl"):
            result = self.run_tool(source, "-o", self.dir / "scale.svg")
            self.assertEqual((result.returncode, result.stderr), (0, ""))
            ElementTree.parse(self.dir / "scale.svg")

    def test_of_several_optimizers_one_is_named(self):
        log = self.write(entry(1, 8.0, 0, name="generator.") | entry(1, 2.0, 0, name="discriminator."))
        self.assertEqual(read_points(log, "generator"), [Point(1, 8.0, 0)])
        result = self.run_tool(log, "-o", self.dir / "scale.svg")
        self.assertEqual(result.returncode, 1)
        self.assertIn("--name may be discriminator, generator", result.stderr)

    def test_a_log_without_a_loss_scale(self):
        self.write({"event": "train", "step": 1, "skipped_steps": 0})
        result = self.run_tool(self.dir, "-o", self.dir / "scale.svg")
        self.assertEqual(result.returncode, 1)
        self.assertIn("must have lines of training with 'loss_scale', but it has none; a run in float16", result.stderr)
        self.assertFalse((self.dir / "scale.svg").exists())
        self.assertIn("No such file", self.run_tool(self.dir / "none", "-o", self.dir / "scale.svg").stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
