#!/usr/bin/env python3
"""Tests of tools/gradient_traffic.py: the formulas against cases done by hand, and that docs/scaling.md has its table."""
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/gradient_traffic.py"
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOOL.parent))
import gradient_traffic  # noqa: E402
from gradient_traffic import bucket_seconds, in_words, step_seconds  # noqa: E402


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)


class GradientTraffic(unittest.TestCase):
    def test_two_send_half_each_way(self):
        # 1 s for each half there and back, and two rounds of 0.1 s.
        self.assertAlmostEqual(bucket_seconds(10e9, 2, 10e9, 0.1), 1.2)

    def test_large_buckets_go_round_the_ring_and_small_ones_up_the_tree(self):
        self.assertAlmostEqual(bucket_seconds(8e9, 8, 1e9, 1e-6), 2 * 7 / 8 * 8 + 14e-6)
        self.assertAlmostEqual(bucket_seconds(1000, 1024, 1e9, 1e-3), 2e-6 + 20e-3)

    def test_buckets_add_up(self):
        one = bucket_seconds(100, 4, 1e3, 0.01)
        self.assertAlmostEqual(step_seconds(350, 4, 1e3, 0.01, bucket=100), 3 * one + bucket_seconds(50, 4, 1e3, 0.01))
        self.assertEqual(step_seconds(350, 1, 1e3, 0.01), 0)

    def test_half_the_bytes_take_half_the_time_where_bytes_decide(self):
        self.assertAlmostEqual(step_seconds(28e9, 64, 25e9, 0) / step_seconds(14e9, 64, 25e9, 0), 2)

    def test_words(self):
        self.assertEqual([in_words(s) for s in (0.00025, 0.0012, 0.0123, 0.129, 1.26, 12.3)],
                         ["0.25 ms", "1.2 ms", "12 ms", "130 ms", "1.3 s", "12 s"])

    def test_one_case_from_the_command_line(self):
        result = run("--parameters", "350e6", "--bytes", "2", "--gpus", "64", "--gigabytes-a-second", "12.5", "--microseconds", "0")
        self.assertEqual(result.stdout, "110 ms\n", result.stderr)  # 2 * 63/64 * 0.7 GB / 12.5 GB/s

    def test_the_page_has_the_table(self):
        result = run("--check", ROOT / "docs/scaling.md")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(gradient_traffic.table(), run().stdout)

    def test_a_page_without_it_fails(self):
        result = run("--check", ROOT / "README.md")
        self.assertEqual(result.returncode, 1)
        self.assertIn("README.md must have the table that", result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
