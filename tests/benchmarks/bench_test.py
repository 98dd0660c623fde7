"""The arithmetic of the benchmark: which samples count, and the search for the largest batch."""
import pathlib
import sys
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
import bench  # noqa: E402
import budget  # noqa: E402
import report  # noqa: E402
import scaling  # noqa: E402
import statistics_of  # noqa: E402


def sample(seconds, reference):
    return {"seconds": seconds, "reference": reference}


class Summaries(unittest.TestCase):
    def test_disturbed_samples_are_dropped_and_counted(self):
        s = statistics_of.summarize([sample(1.0, 100), sample(9.0, 79), sample(3.0, 80), sample(2.0, 90)], 100)
        self.assertEqual((s["kept"], s["dropped"], s["median"], s["min"], s["max"]), (3, 1, 2.0, 1.0, 3.0))
        self.assertEqual(s["spread"], 0.5)  # quartiles 1.5 and 2.5
        self.assertNotIn("median", statistics_of.summarize([sample(1.0, 10)], 100))

    def test_five_percent_count_as_equal(self):
        self.assertEqual([statistics_of.verdict(r) for r in (0.94, 0.951, 1.049, 1.06)], ["slower", "equal", "equal", "faster"])


def row(side, variant, precision, seconds, peak_bytes):
    return {"side": side, "variant": variant, "float32": variant, "precision": precision, "median": seconds, "spread": 0.1, "kept": 9, "dropped": 0,
            "peak_bytes": peak_bytes}


class Tables(unittest.TestCase):
    measured = {"workload": "mlp_small", "rows": [
        row("ours", "a", "bf16", 0.001, 100), row("ours", "a", "fp32", 0.003, 150), row("Python", "default", "bf16", 0.004, 120),
        row("Python", "fused, compiled forward", "bf16", 0.002, 110), row("Python", "fused", "bf16", 0.0025, 90),
        row("ours", "products", "bf16", 0.0005, 0)]}

    def test_goals_compare_with_the_variant_they_name(self):
        got = {kind: report.reached(self.measured, kind) for kind in ("best", "default", "eager", "float32", "bytes")}
        self.assertEqual({k: round(v, 6) for k, v in got.items()},
                         {"best": 2, "default": 4, "eager": 2.5, "float32": 3, "bytes": round(100 / 90, 6)})

    def test_a_graphs_goals_look_at_graphs_only(self):
        self.assertIsNone(report.reached(self.measured, "graph"))
        graphs = self.measured | {"rows": [*self.measured["rows"], row("ours", "halfstep::Graph", "bf16", 0.0008, 100),
                                           row("ours", "halfstep::Graph, channels_last", "bf16", 0.0016, 100)]}
        self.assertEqual([round(report.reached(graphs, kind), 6) for kind in ("graph", "graph products")], [2.5, 1.6])
        lines = report.goals({"workloads": [graphs]})
        self.assertIn("| mlp_small: a Graph, times as fast as the best Python variant | 2.0 | 2.50 | reached |", lines)
        self.assertIn("| mlp_small: a Graph, times the products, at most | 1.6 | 1.60 | reached |", lines)

    def test_a_row_has_every_ratio(self):
        ours = next(line for line in report.table(self.measured) if line.startswith("| ours | a, bf16"))
        self.assertEqual([c.strip() for c in ours.strip("|").split("|")],
                         ["ours", "a, bf16", "1.000", "10%", "2.00 × (faster)", "3.00 ×", "2.00", "0.0", "9 of 9"])

    def test_recordings_have_three_steps_and_a_second(self):
        graph = row("ours", "halfstep::Graph", "bf16", 0.5, 0)
        text = [report.recordings({"workloads": [{"workload": "gpt", "rows": [graph | {"recording_seconds": s}, row("ours", "a", "bf16", 1, 0)]}]})
                for s in (2.4, 2.5)]
        self.assertEqual([lines[2:] for lines in text], [["| gpt: halfstep::Graph, bf16 | 2.400 | 2.500 | within |", ""],
                                                         ["| gpt: halfstep::Graph, bf16 | 2.500 | 2.500 | beyond |", ""]])
        self.assertEqual(report.recordings({"workloads": [{"workload": "gpt", "rows": [row("ours", "a", "bf16", 1, 0)]}]}), [])


class Entries(unittest.TestCase):
    HELLO = {"ours": {"variants": [{"name": "Adam", "images_only": False, "float32": ""}, {"name": "masters", "images_only": False, "float32": "Adam"}]}}

    def entries(self, workload, quick, avx512, pattern=""):
        with mock.patch.object(bench, "has_bfloat16_convolutions", return_value=avx512):
            return [f"{variant}/{precision}" for _, variant, precision in bench.entries_of(workload, self.HELLO, pattern, quick)]

    def test_a_quick_run_leaves_out_convolutions_that_take_minutes(self):
        everything = ["Adam/bf16", "Adam/fp32", "masters/bf16", "products/bf16", "products, channels_last/bf16"]
        self.assertEqual(self.entries("resnet18", quick=True, avx512=False), ["Adam/fp32"])
        self.assertEqual(self.entries("resnet18", quick=True, avx512=True), everything)
        self.assertEqual(self.entries("resnet18", quick=False, avx512=False), everything)
        self.assertEqual(self.entries("gpt", quick=True, avx512=False), everything[:-1])

    def test_products_in_bfloat16_stand_beside_bfloat16_only(self):
        self.assertEqual(self.entries("gpt", quick=False, avx512=True, pattern="fp32"), ["Adam/fp32"])
        self.assertEqual(self.entries("gpt", quick=False, avx512=True, pattern="masters"), ["masters/bf16", "products/bf16"])


class Scaling(unittest.TestCase):
    def measured(self, **medians):
        return {"workload": "gpt", "precision": "bf16", "gradient_bytes": 1 << 20,
                "rows": {kind: {"median": seconds, "spread": 0, "kept": 9, "dropped": 0} for kind, seconds in medians.items()}}

    def test_what_the_exchange_adds_is_exposed(self):
        share = scaling.shares(self.measured(alone=1.0, train=1.25, compute=1.125, exchange=0.5), 2)
        self.assertEqual(share, {"speedup": 1.6, "exposed": 0.25, "of_step": 0.1})
        self.assertEqual(scaling.shares(self.measured(alone=1.0, train=1.0, compute=1.1, exchange=0.5), 2)["exposed"], 0)

    def test_without_a_quiet_sample_nothing_is_said(self):
        measured = self.measured(alone=1.0, train=1.25, compute=1.125, exchange=0.5)
        del measured["rows"]["train"]["median"]
        self.assertIsNone(scaling.shares(measured, 2))


class Budget(unittest.TestCase):
    def test_finds_the_largest_batch(self):
        for bytes_of in (lambda n: 100 + 7 * n, lambda n: 100 + 7 * n + n % 3, lambda n: n * n, lambda n: 50 * (n // 10) + n):
            for limit in range(1, 3000, 37):
                asked = []

                def counted(n):
                    asked.append(n)
                    return bytes_of(n)

                found = budget.largest_batch(counted, limit)
                wanted = max((n for n in range(1, 3001) if bytes_of(n) <= limit), default=0)
                if bytes_of(2) - bytes_of(1) in (7, 3):  # rising throughout
                    self.assertEqual(found, wanted)
                self.assertTrue(found == 0 or bytes_of(found) <= limit < bytes_of(found + 1))
                self.assertLess(len(asked), 40)


if __name__ == "__main__":
    unittest.main()
