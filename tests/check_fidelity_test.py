"""Tests of scripts/check_fidelity.py: each kind of complaint is made, and only then."""
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "scripts"))
import check_fidelity  # noqa: E402

LISTING = """no CUDA device works here
Plain.
  One
  DISABLED_Two
On/Swept.
  Three/CPU   # GetParam() = cpu
  Three/CUDA  # GetParam() = cuda
Typed/0.  # TypeParam = float
  Four
"""
CASES = {"Plain.One", "Swept.Three", "Typed.Four"}
REFERENCES = [("pytorch", "test_a"), ("pytorch", "test_b")]


def row(name, ours="", status="test", reason="", system="PyTorch"):
    return {"system": system, "reference_test": name, "ours": ours, "status": status, "reason": reason}


class CheckFidelity(unittest.TestCase):
    def complaints(self, *rows):
        return check_fidelity.check(list(rows), REFERENCES, CASES)

    def expect(self, part, *rows):
        complaints = self.complaints(*rows)
        self.assertEqual(len(complaints), 1, complaints)
        self.assertIn(part, complaints[0])

    def test_reads_the_listing_without_prefixes_parameters_and_disabled_tests(self):
        self.assertEqual(check_fidelity.cases_in_listing(LISTING), CASES)

    def test_accepts_a_whole_mapping(self):
        self.assertEqual(self.complaints(row("test_a", "Plain.One"), row("test_b", status="later", reason="graphs")), [])
        self.assertEqual(self.complaints(row("test_a", "Swept.Three"), row("test_b", status="n/a", reason="why")), [])

    def test_complains(self):
        good = row("test_b", "Plain.One")
        self.expect("not in fidelity.csv", good)
        self.expect("no such test", row("test_a", "Plain.One"), good, row("test_c", "Plain.One"))
        self.expect("no test program has a test 'Plain.Two'", row("test_a", "Plain.Two"), good)
        self.expect("no test program has a test ''", row("test_a"), good)
        self.expect("needs a reason", row("test_a", status="later", reason=" "), good)
        self.expect("needs a reason", row("test_a", status="n/a"), good)
        self.expect("names a test of ours", row("test_a", "Plain.One", "later", "graphs"), good)
        self.expect("the status must be one of", row("test_a", "Plain.One", "maybe"), good)
        self.expect("mapped twice", row("test_a", "Plain.One"), good, good)

    def test_the_committed_list_has_no_name_twice(self):
        names = check_fidelity.reference_tests(check_fidelity.ROOT / "tests/reference_tests")
        self.assertGreater(len(names), 100)
        self.assertEqual(len(names), len(set(names)))


if __name__ == "__main__":
    unittest.main()
