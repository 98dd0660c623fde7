#!/usr/bin/env python3
"""Writes tests/train/data/golden: small images of many kinds, and in expected.safetensors what Pillow makes of them.

Needs Pillow of the version below, NumPy and safetensors:
    python scripts/golden/images.py           write the files
    python scripts/golden/images.py --check   fail where Pillow makes other pixels of the committed images
"""
import argparse
import pathlib
import sys

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import load_file, save_file

PILLOW_VERSION = "12.0.0"
TARGET = pathlib.Path(__file__).resolve().parents[2] / "tests/train/data/golden"


def pattern(height, width, channels):
    """Smooth, with an edge, so that JPEG and resizing have something to do."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    return ((9 * y + 5 * x + 60 * c + 100 * (x > width // 2)) % 256).astype(np.uint8)


def write_images():
    rgb = Image.fromarray(pattern(13, 17, 3))
    rgb.save(TARGET / "rgb.png")
    rgb.save(TARGET / "rgb.jpg", quality=90)
    rgb.save(TARGET / "progressive.jpg", quality=90, progressive=True)
    Image.fromarray(pattern(13, 17, 1)[:, :, 0]).save(TARGET / "gray.png")
    Image.fromarray(pattern(13, 17, 1)[:, :, 0]).save(TARGET / "gray.jpg", quality=90)
    Image.fromarray(pattern(13, 17, 4), "RGBA").save(TARGET / "rgba.png")
    rgb.quantize(7).save(TARGET / "palette.png")
    rgb.convert("CMYK").save(TARGET / "cmyk.jpg")


def expected():
    tensors = {}
    for file in sorted(TARGET.glob("*.*g")):
        if file.stem == "cmyk":
            continue
        image = Image.open(file)
        tensors[f"{file.name}/rgb"] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        tensors[f"{file.name}/gray"] = np.asarray(image.convert("L"))[None]
    image = Image.open(TARGET / "rgb.png")
    for height, width in ((6, 8), (29, 31), (13, 5)):
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        tensors[f"resized/{height}x{width}"] = np.asarray(resized).transpose(2, 0, 1)
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if PIL.__version__ != PILLOW_VERSION:
        sys.exit(f"this needs Pillow {PILLOW_VERSION}, but got {PIL.__version__}")
    if arguments.check:
        committed = load_file(TARGET / "expected.safetensors")
        made = expected()
        if set(committed) != set(made) or any((committed[name] != made[name]).any() for name in made):
            sys.exit("Pillow makes other pixels of the committed images")
    else:
        write_images()
        save_file(expected(), TARGET / "expected.safetensors")


main()
