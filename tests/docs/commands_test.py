"""Every command in a block of README.md, CONTRIBUTING.md and docs/ is run by a test, alone or as part of what it calls, or said here to be run by hand."""
import re
import sys
import unittest

sys.dont_write_bytecode = True
from snippets_test import DOCS, PAGES, ROOT, TRAINER_PAGES  # noqa: E402

PROCESS = "tests/train/process/"
HAND = "by hand: "
# Page, beginning of the line: what runs it, or what it calls, and a word of that; or why none does.
RUN_BY = {
    "README.md": {
        "apt-get update": HAND + "on a bare Debian 12", "git clone": HAND + "on a bare Debian 12",
        "make train": (PROCESS + "command_test.py", "--amp"), "make test": (".ci/run", "make --no-print-directory test"),
        "halfstep train CONFIG [": (PROCESS + "command_test.py", "train"), "halfstep dist-train": (PROCESS + "dist_train_test.py", "dist-train"),
        "halfstep slurm-train": (PROCESS + "slurm_test.py", "slurm-train"), "halfstep test": (PROCESS + "command_test.py", '"test"'),
        "halfstep export": (PROCESS + "weights_test.py", '"export"'), "halfstep predict": (PROCESS + "weights_test.py", '"predict"'),
        "halfstep print-config": (PROCESS + "print_config_test.py", "print-config"),
        "halfstep --version": (PROCESS + "command_test.py", "--version"), "halfstep doctor": (PROCESS + "doctor_test.py", '"doctor"'), "halfstep report": (PROCESS + "report_test.py", '"report"'),
    },
    "doctor.md": {"halfstep doctor": (PROCESS + "doctor_test.py", '"doctor"')},
    "reports.md": {
        "halfstep report": (PROCESS + "report_test.py", '"report"'), "halfstep train configs/mnist_mlp.yaml": (PROCESS + "tensorboard_test.py", "custom_hooks="),
    },
    "CONTRIBUTING.md": {
        "make test-slow": HAND + "takes many minutes", "make test": (".ci/run", "make --no-print-directory test"),
        ".ci/run": ("tests/scripts/scripts_test", ".ci/run"), "cmake --build": ("scripts/build", "cmake --build"),
        "ctest": ("scripts/test", "ctest"), "build/release/tests/scaling": ("scripts/test", "ctest"),
    },
    "benchmarks.md": {
        "make bench BENCH_ARGS=--quick": ("benchmarks/CMakeLists.txt", "--quick"), "make bench": HAND + "takes a quiet machine",
    },
    "building.md": {
        "cmake --preset release": ("scripts/build", "cmake --preset"), "ctest": ("scripts/test", "ctest"),
        "python3 -m venv": HAND + "downloads LibTorch", "mkdir ~/deps": HAND + "downloads packages", "apt-get download": HAND + "downloads packages",
        "for deb": HAND + "unpacks what was downloaded", "cmake -B build/home": HAND + "a whole build", "apt-get install": HAND + "as root",
        "cmake --build build": ("tests/packaging/install.cmake", "--install"), "halfstep --version": ("tests/packaging/package.cmake", "--version"),
        "make package": ("Makefile", "cpack --config"), "cpack": ("tests/packaging/package.cmake", "CPackConfig.cmake"),
        "nvidia-smi": HAND + "needs a GPU", ".venv/bin/python -c": HAND + "needs a GPU",
    },
    "coming-from-openmmlab.md": {
        "tools/mm_config_to_yaml.py": ("tests/tools/mm_config_to_yaml_test.py", "mm_config_to_yaml"),
        "halfstep print-config configs/x.yaml": ("tests/tools/mm_config_to_yaml_test.py", "print-config"),
    },
    "distributed.md": {
        "halfstep dist-train": (PROCESS + "dist_train_test.py", 'documented("halfstep dist-train")'),
        "bash tools/dist_train.sh": (PROCESS + "dist_train_test.py", "bash tools/dist_train.sh"),
        "bash tools/slurm_train.sh": (PROCESS + "slurm_test.py", "bash tools/slurm_train.sh"),
        "torchrun": (PROCESS + "launchers_test.py", '"torchrun"'), "mpirun": (PROCESS + "launchers_test.py", '"mpirun"'),
        "RANK=0": (PROCESS + "dist_train_test.py", 'documented("RANK=0")'),
    },
    "scaling.md": {
        "halfstep train configs/mnist_mlp.yaml": (PROCESS + "print_config_test.py", "test_commands_of_the_pages_run"),
        "halfstep dist-train": (PROCESS + "dist_train_test.py", "halfstep dist-train"),
        "bash tools/dist_train.sh": (PROCESS + "dist_train_test.py", "bash tools/dist_train.sh"),
        "NNODES=2": (PROCESS + "two_machines_test.py", "NNODES"), "GPUS=16": (PROCESS + "slurm_test.py", "GPUS"),
        "GPUS=2": (PROCESS + "slurm_test.py", "GPUS_PER_NODE"), "srun": (PROCESS + "slurm_test.py", "srun"),
    },
    "weights.md": {"halfstep export": (PROCESS + "weights_test.py", '"export"'), "halfstep predict": (PROCESS + "weights_test.py", '"predict"')},
}
PROGRAM = (r"(?:\w+=\S* )*(?:make|cmake|ctest|halfstep|bash|torchrun|mpirun|srun|python3|git|apt-get|cpack|mkdir|for|nvidia-smi|[\w./]*(?:build|tools|scripts|"
           r"benchmarks)/[\w./]+|\.ci/run|\.venv/[\w./]+)(?: |$)")


def blocks(page):
    """Language and lines of each block; of those that are indented after an empty line, not fenced, "indented"."""
    language, lines = None, []
    for line, before in zip(page.splitlines() + [""], ["", *page.splitlines()]):
        if line.startswith("```"):
            if language in (None, "indented"):
                language, lines = line[3:], []
            else:
                yield language, lines
                language, lines = None, []
        elif language is None and not before and line.startswith("    "):
            language, lines = "indented", [line]
        elif language == "indented" and not line.startswith("    "):
            yield language, lines
            language, lines = None, []
        else:
            lines.append(line)


def commands(page):
    lines = [line.strip().removeprefix("$ ") for language, lines in blocks(page) if language in ("", "sh", "indented") for line in lines]
    return [line for line in lines if re.match(PROGRAM, line) and not re.match(r"halfstep (precision plan|\d)", line)]


class Commands(unittest.TestCase):
    def test_every_command_is_run_or_says_why_not(self):
        met, found = set(), 0
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
            text = page.read_text()
            ran = {line for language, lines in blocks(text) for line in lines if language == "sh" and page.name in TRAINER_PAGES}
            for line in commands(text):
                found += 1
                if line in ran or page.name in PAGES["coming_from_test.cpp"] and f"\n$ {line}\n" in text:
                    continue  # print_config_test.py, snippets_test.py
                starts = [start for start in RUN_BY.get(page.name, {}) if re.match(re.escape(start) + r"(?!\w)", line)]
                with self.subTest(f"{page.name}: {line}"):
                    self.assertTrue(starts, "neither run by a test nor named in commands_test.py")
                met |= {(page.name, start) for start in starts}
        self.assertGreater(found, 60)
        self.assertEqual(met, {(page, start) for page, starts in RUN_BY.items() for start in starts}, "named here, but in no page")

    def test_the_tests_named_are_there(self):
        for page, starts in RUN_BY.items():
            for start, by in starts.items():
                if isinstance(by, str):
                    self.assertTrue(by.startswith(HAND))
                    continue
                with self.subTest(f"{page}: {start}"):
                    self.assertIn(by[1], (ROOT / by[0]).read_text())

    def test_what_a_command_is(self):
        page = "a\n\n    tools/x.py y\n\n```\nmake train   # z\nno\n$ build/release/x\nA=1 B= bash c\n```\n```cpp\nmake x\n```\n- b\n    make d\n"
        self.assertEqual(commands(page), ["tools/x.py y", "make train   # z", "build/release/x", "A=1 B= bash c"])


if __name__ == "__main__":
    unittest.main()
