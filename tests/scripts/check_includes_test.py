"""Tests of scripts/check_includes.py: each kind of complaint is made, and only then."""
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import check_includes  # noqa: E402


class CheckIncludes(unittest.TestCase):
    def complaints(self, **files):
        with tempfile.TemporaryDirectory() as folder:
            for name, include in files.items():
                file = pathlib.Path(folder) / (name.replace("__", "/") + ".cpp")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"  # include {include}\n")
            return check_includes.complaints(pathlib.Path(folder))

    def test_takes_what_each_ring_may_use(self):
        self.assertEqual(self.complaints(
            halfstep__core__a="<vector>", halfstep__scaling__a="<ATen/ops/ones.h>", halfstep__nn__a='"halfstep/core/error.h"',
            halfstep__core__b="<cuda_runtime_api.h>", halfstep__optim__a="<hwy/highway.h>", halfstep__train__a="<fmt/format.h>",
            halfstep__train__loop__b='"halfstep/scaling.h"', apps__halfstep__main='"halfstep/train.h"'), [])

    def test_complains(self):
        for name, include in [("halfstep__core__a", "<fmt/format.h>"), ("halfstep__core__a", "<zlib.h>"),
                              ("halfstep__scaling__a", "<hwy/highway.h>"), ("halfstep__nn__a", '"halfstep/train/main.h"'),
                              ("halfstep__core__a", '"halfstep/train.h"'), ("halfstep__core__a", '"error.h"'),
                              ("halfstep__core__a", "<halfstep/core.h>"), ("halfstep__train__a", '"apps/halfstep/main.h"'),
                              ("halfstep__train__a", '"tests/support/errors.h"'), ("halfstep__other__a", "<vector>")]:
            with self.subTest(name=name, include=include):
                self.assertEqual(len(self.complaints(**{name: include})), 1)

    def test_complains_where_there_is_nothing(self):
        self.assertEqual(len(self.complaints()), 1)


if __name__ == "__main__":
    unittest.main()
