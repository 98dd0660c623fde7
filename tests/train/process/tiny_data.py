"""Small data sets in MNIST's IDX format, the same every time, for tests that start whole processes."""
import gzip
import random
import struct
from pathlib import Path


def write_idx(folder: Path, train: int = 480, test: int = 100, zipped: bool = True) -> None:
    """Ten kinds of 28x28 images: a bright bar at a height of its own, on noise."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = bytes(i % 10 for i in range(count))
        images = bytearray()
        for label in labels:
            image = bytearray(generator.randbytes(784))
            for row in (2 * label + 3, 2 * label + 4):
                image[28 * row:28 * row + 28] = b"\xff" * 28
            images += image
        for name, data in ((f"{prefix}-images-idx3-ubyte", struct.pack(">IIII", 0x803, count, 28, 28) + images),
                           (f"{prefix}-labels-idx1-ubyte", struct.pack(">II", 0x801, count) + labels)):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(bytes(data), 1))
            else:
                (folder / name).write_bytes(bytes(data))
