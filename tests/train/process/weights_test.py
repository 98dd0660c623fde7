#!/usr/bin/env python3
"""Tests of halfstep export and predict as a user types them, of the snippets in docs/weights.md, and of the example inference.cpp.

usage: weights_test.py --program BUILD/halfstep --source SOURCES [--inference BUILD/inference] [unittest arguments]
"""
import argparse
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from collections import Counter
from pathlib import Path

from tiny_data import write_idx

PROGRAM = ""
INFERENCE = ""
SOURCE = Path()


def png(width, height, rows):
    """A PNG file: rows of bytes, gray or RGB."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    color = 0 if len(rows[0]) == width else 2
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def snippets(language):
    return re.findall(rf"^```{language}\n(.*?)^```", (SOURCE / "docs/weights.md").read_text(), re.M | re.S)


def python_with(*packages):
    """A Python that has them, and None or why there is none."""
    python = os.environ.get("HALFSTEP_TEST_PYTHON") or str(SOURCE / ".venv/bin/python")
    script = "".join(f"import {package}\n" for package in packages)
    found = shutil.which(python) and subprocess.run([python, "-c", script], capture_output=True).returncode == 0
    return python, None if found else f"SKIPPED, NOTHING WAS TESTED: this needs {' and '.join(packages)} in .venv or in HALFSTEP_TEST_PYTHON"


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="halfstep-weights-")
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def run_program(self, program, *arguments, status=0):
        result = subprocess.run([program, *map(str, arguments)], cwd=self.dir, capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, status, f"{arguments}:\n{result.stdout}{result.stderr}")
        return result

    def halfstep(self, *arguments, status=0):
        return self.run_program(PROGRAM, *arguments, status=status)


class MnistTest(Folder):
    """A small Mlp on images in MNIST's format."""

    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory(prefix="halfstep-weights-")
        cls.addClassCleanup(cls.shared.cleanup)
        cls.root = Path(cls.shared.name)
        write_idx(cls.root / "data")
        cls.config = SOURCE / "configs/mnist_mlp.yaml"
        cls.options = ["--device", "cpu", "--cfg-options", f"train_dataloader.dataset.root={cls.root}/data",
                       f"test_dataloader.dataset.root={cls.root}/data"]
        subprocess.run([PROGRAM, "train", cls.config, "--amp", "--work-dir", cls.root / "w", *cls.options], check=True,
                       capture_output=True)
        cls.checkpoint = sorted((cls.root / "w/checkpoints").glob("step_*"))[-1]
        for label in range(10):
            generator = random.Random(label)
            rows = [b"\xff" * 28 if y in (2 * label + 3, 2 * label + 4) else generator.randbytes(28) for y in range(28)]
            (cls.root / f"{label}.png").write_bytes(png(28, 28, rows))
        cls.images = [cls.root / f"{label}.png" for label in range(10)]

    def export(self, dtype, *more, status=0, checkpoint=None):
        return self.halfstep("export", self.config, checkpoint or self.checkpoint, "--dtype", dtype, "-o", "mlp.safetensors", *more,
                             status=status)

    def predict(self, checkpoint, *more, status=0):
        result = self.halfstep("predict", self.config, checkpoint, *self.images, "--json", "--device", "cpu", *more, status=status)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def run_snippet(self, snippet, python):
        """What a snippet's net gives for the images: class and probability each."""
        script = snippet + f"""
import json, zlib
import numpy as np
def pixels(file):
    data = open(file, "rb").read()
    rows = zlib.decompress(data[41:41 + int.from_bytes(data[33:37], "big")])
    return [value / 255 for y in range(28) for value in rows[29 * y + 1:29 * y + 29]]
images = np.array([pixels(file) for file in {[str(image) for image in self.images]}], dtype=np.float32)
if "torch" in globals():
    scores = net(torch.from_numpy(images)).detach().numpy()
else:
    scores = net(images)
shares = np.exp(scores - scores.max(1, keepdims=True))
shares /= shares.sum(1, keepdims=True)
print(json.dumps([[int(row.argmax()), float(row.max())] for row in shares]))
"""
        result = subprocess.run([python, "-c", script], cwd=self.dir, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def expect_close(self, predictions, pairs, tolerance):
        for prediction, (number, probability) in zip(predictions, pairs, strict=True):
            self.assertEqual(prediction["number"], number)
            self.assertAlmostEqual(prediction["probability"], probability, delta=tolerance)

    def test_predictions_are_right_and_equal_in_batches_of_any_size(self):
        predictions = self.predict(self.checkpoint)
        self.assertGreaterEqual(sum(p["number"] == label for label, p in enumerate(predictions)), 8, predictions)
        self.assertEqual([p["input"] for p in predictions], [str(image) for image in self.images])
        for prediction, other in zip(predictions, self.predict(self.checkpoint, "--batch-size", 3), strict=True):
            self.assertEqual(prediction["class"], other["class"])
            self.assertAlmostEqual(prediction["probability"], other["probability"], delta=1e-5)
        amp = self.predict(self.checkpoint, "--amp")
        self.assertNotEqual(amp, predictions)
        self.expect_close(amp, [(p["number"], p["probability"]) for p in predictions], 0.03)
        plain = self.halfstep("predict", self.config, self.checkpoint, self.images[3], "--device", "cpu").stdout
        self.assertRegex(plain, rf"^{re.escape(str(self.images[3]))}: {predictions[3]['class']} [01]\.\d{{4}}\n$")

    def test_exported_weights_give_the_same_outputs_in_python(self):
        python, missing = python_with("numpy", "safetensors")
        if missing:
            if os.environ.get("HALFSTEP_REQUIRE_PYTHON") == "1":
                self.fail(missing)
            self.skipTest(missing)
        with_torch, without = snippets("python")
        _, no_torch = python_with("torch")
        if no_torch:
            print("SKIPPED: the PyTorch snippet;", no_torch)
        expected = self.predict(self.checkpoint)
        for dtype, tolerance in (("float32", 1e-5), ("float16", 3e-3), ("bfloat16", 3e-2)):
            printed = self.export(dtype).stdout
            self.assertRegex(printed, rf"mlp\.safetensors: 4 tensors, [01]\.\d MiB in {dtype}\n")
            self.expect_close(self.predict("mlp.safetensors"), [(p["number"], p["probability"]) for p in expected], tolerance)
            if dtype != "bfloat16":
                self.expect_close(expected, self.run_snippet(without, python), tolerance)
            if not no_torch:
                self.expect_close(expected, self.run_snippet(with_torch, python), tolerance)
        self.assertEqual((self.dir / "mlp.safetensors").stat().st_mode & 0o777, 0o644)

    def test_exported_weights_have_the_accuracy_of_the_run(self):
        def accuracy(file):
            return float(re.search(r"^test accuracy (0\.\d+)$", self.halfstep("test", self.config, file, *self.options).stdout, re.M)[1])
        self.export("bfloat16")
        self.assertGreater(accuracy(self.checkpoint), 0.5)
        self.assertAlmostEqual(accuracy("mlp.safetensors"), accuracy(self.checkpoint), delta=0.02)

    def test_the_inference_example_gives_the_same_outputs(self):
        if not INFERENCE:
            self.skipTest("SKIPPED, NOTHING WAS TESTED: the examples were not built")
        self.export("bfloat16")
        printed = self.run_program(INFERENCE, "mlp.safetensors", *self.images).stdout
        self.assertIn("loaded 4 of 4 tensors from mlp.safetensors\nconverted (4): fc1.bias (bfloat16 to float32)", printed)
        pairs = [(int(number), float(share)) for number, share in re.findall(r"^\S+\.png: (\d) ([\d.e-]+)$", printed, re.M)]
        self.expect_close(self.predict("mlp.safetensors", "--amp"), pairs, 0.02)
        error = self.run_program(INFERENCE, "none.safetensors", status=1).stderr
        self.assertIn("none.safetensors must be a file with weights", error)

    def test_overflow_is_an_error_that_names_the_tensor(self):
        python, missing = python_with("numpy", "safetensors")
        if missing:
            self.skipTest(missing)
        script = """
import sys
from safetensors.numpy import load_file, save_file
weights = {name[6:]: value for name, value in load_file(sys.argv[1]).items() if name.startswith("model.")}
weights["fc2.bias"][3] = 1e6
weights["fc2.bias"][4] = 1e-9
save_file(weights, "large.safetensors")
"""
        subprocess.run([python, "-c", script, self.checkpoint], cwd=self.dir, check=True)
        error = self.export("float16", checkpoint="large.safetensors", status=2).stderr
        self.assertIn("[export] 'fc2.bias' must be within the range of float16, but 1 of its 10 values are not, the largest 1e+06", error)
        self.assertFalse((self.dir / "mlp.safetensors").exists())
        printed = self.export("float16", "--allow-overflow", checkpoint="large.safetensors").stdout
        self.assertRegex(printed, r"1 values became infinite.*\n[1-9]\d* values became 0")
        self.export("bfloat16", checkpoint="large.safetensors")

    def test_what_is_wrong_is_said(self):
        self.assertIn("--dtype must be float16, bfloat16 or float32, but got 'fp8'", self.export("fp8", status=2).stderr)
        self.assertIn("must have exactly the module's tensors", self.halfstep(
            "export", self.config, self.checkpoint, "--dtype", "float32", "-o", "x", "--cfg-options", "model.sizes=[784,8,10]",
            status=1).stderr)
        (self.dir / "broken.png").write_text("no image")
        (self.dir / "small.png").write_bytes(png(5, 5, [b"12345"] * 5))
        result = self.halfstep("predict", self.config, self.checkpoint, self.images[0], "broken.png", "none.png", "small.png",
                               self.images[1], "--device", "cpu", status=1)
        self.assertEqual(len(result.stdout.splitlines()), 2, result.stdout)
        for word in ("broken.png must be a PNG or JPEG file", "none.png must be an image", "small.png"):
            self.assertIn(word, result.stderr)
        self.assertEqual(len(re.findall("^error: ", result.stderr, re.M)), 3, result.stderr)
        lines = self.halfstep("predict", self.config, self.checkpoint, "broken.png", "--json", status=1).stdout.splitlines()
        self.assertIn("must be a PNG", json.loads(lines[0])["error"])
        self.assertIn("--batch-size must be at least 1", self.halfstep(
            "predict", self.config, self.checkpoint, self.images[0], "--batch-size", 0, status=2).stderr)
        self.halfstep("predict", self.config, self.checkpoint, status=2)


class ImageFolderTest(Folder):
    CONFIG = """
model: {type: ConvNet, in_channels: 3, image_size: 16, channels: [8], dropout: 0.0, classes: 2}
loss: {type: CrossEntropyLoss}
train_dataloader:
  batch_size: 8
  shuffle: true
  dataset:
    type: ImageFolder
    root: pets
    transforms:
      - {type: Resize, size: 20}
      - {type: RandomCrop, size: 16}
      - {type: RandomHorizontalFlip}
      - {type: ToTensor}
      - {type: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
test_dataloader:
  dataset:
    type: ImageFolder
    root: pets
    transforms: [{type: Resize, size: 20}, {type: CenterCrop, size: 16}, {type: Normalize, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}]
optim_wrapper: {type: AmpOptimWrapper, optimizer: {type: Adam, lr: 0.01}}
train_cfg: {max_epochs: 4}
"""

    def test_trains_and_predicts_on_folders(self):
        generator = random.Random(0)
        for name, channel in (("cat", 0), ("dog", 2)):
            (self.dir / "pets" / name).mkdir(parents=True)
            for i in range(24):
                rows = []
                for _ in range(24):
                    row = bytearray(generator.randbytes(3 * 30))
                    row[channel::3] = bytes(200 + value // 5 for value in row[channel::3])
                    rows.append(bytes(row))
                (self.dir / "pets" / name / f"{i}.png").write_bytes(png(30, 24, rows))
        (self.dir / "pets.yaml").write_text(self.CONFIG)
        log = self.halfstep("train", "pets.yaml", "--device", "cpu").stdout
        self.assertIn("convolution bfloat16", log)
        self.assertGreaterEqual(float(re.findall(r"accuracy: (\d\.\d+)", log)[-1]), 0.9)
        checkpoint = sorted((self.dir / "work_dirs/pets/checkpoints").glob("step_*"))[-1]
        shutil.copy(self.dir / "pets/dog/3.png", self.dir / "it.png")
        shutil.copy(self.dir / "pets/cat/3.png", self.dir / "he.png")
        shutil.rmtree(self.dir / "pets")
        printed = self.halfstep("predict", "work_dirs/pets/config.yaml", checkpoint, "it.png", "he.png", "--device", "cpu").stdout
        self.assertRegex(printed, r"^it\.png: dog [01]\.\d{4}\nhe\.png: cat [01]\.\d{4}\n$")

    def test_a_broken_image_ends_the_run_by_name(self):
        for name in ("cat", "dog"):
            (self.dir / "pets" / name).mkdir(parents=True)
            (self.dir / "pets" / name / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
        (self.dir / "pets.yaml").write_text(self.CONFIG)
        error = self.halfstep("train", "pets.yaml", "--device", "cpu", status=1).stderr
        self.assertRegex(error, r"error: \[image\] pets/(cat|dog)/1\.jpg must be a whole JPEG image .* libjpeg says: ")


class LanguageTest(Folder):
    def test_learns_more_than_how_often_each_character_is_used(self):
        text = Path("/usr/share/common-licenses/GPL-3")
        if not text.exists():
            self.skipTest(f"SKIPPED, NOTHING WAS TESTED: this needs {text}")
        counts = Counter(text.read_bytes())
        entropy = -sum(n / counts.total() * math.log2(n / counts.total()) for n in counts.values())
        config = SOURCE / "configs/char_gpt.yaml"
        # Float16 is rehearsed on a CPU, at the speed of float32; bfloat16 is slow where the CPU has no instructions for it.
        small = ["--cfg-options", "optim_wrapper.dtype=float16", "model.width=64", "train_cfg.max_epochs=8", "model.context=32",
                 "train_dataloader.dataset.context=32", "test_dataloader.dataset.context=32", "optim_wrapper.optimizer.lr=5e-3",
                 "default_hooks.checkpoint.interval=8"]
        log = self.halfstep("train", config, "--device", "cpu", *small).stdout
        self.assertIn("linear float16", log)
        bits, perplexity = [float(re.findall(rf"{name}: (\d+\.\d+)", log)[-1]) for name in ("bits_per_character", "perplexity")]
        self.assertAlmostEqual(2**bits, perplexity, delta=0.01 * perplexity)
        print(f"bits per character {bits} on the last tenth; of single characters {entropy:.4f}")
        self.assertLess(bits, 0.9 * entropy)

        checkpoint = sorted((self.dir / "work_dirs/char_gpt/checkpoints").glob("step_*"))[-1]
        predict = ["predict", "work_dirs/char_gpt/config.yaml", checkpoint, "--device", "cpu", "You may ", "--length", 60]
        one = self.halfstep(*predict, "--seed", 1).stdout
        self.assertTrue(one.startswith("You may "))
        self.assertGreaterEqual(len(one), 60)
        self.assertEqual(self.halfstep(*predict, "--seed", 1).stdout, one)
        self.assertNotEqual(self.halfstep(*predict, "--seed", 2).stdout, one)
        greedy = [self.halfstep(*predict, "--temperature", 0, "--seed", seed).stdout for seed in (1, 2)]
        self.assertEqual(*greedy)
        line = json.loads(self.halfstep(*predict, "--json", "--temperature", 0).stdout)
        self.assertEqual(line["input"] + line["continuation"] + "\n", greedy[0])
        # Of letters that follow each other as in the text, most words are words of it.
        words = set(re.findall(rb"[a-z]{2,}", text.read_bytes()))
        made = [word.encode() for word in re.findall(r"[a-z]{2,}", greedy[0])[1:-1]]
        self.assertGreater(sum(word in words for word in made), len(made) / 2, greedy[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--inference", default="")
    options, rest = parser.parse_known_args()
    PROGRAM, SOURCE = str(Path(options.program).resolve()), options.source.resolve()
    INFERENCE = str(Path(options.inference).resolve()) if options.inference else ""
    unittest.main(argv=[sys.argv[0], *rest], verbosity=2)
