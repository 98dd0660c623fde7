#!/usr/bin/env python3
"""Checks the direction of includes: the library on LibTorch and the standard library alone, the trainer on the library, the
apps on both. So the library builds without the trainer's packages. Prints what breaks it and fails.

    scripts/check_includes.py [FOLDER]
"""
import pathlib
import re
import sys

LIBRARY = ("core", "autocast", "scaling", "nn", "inspect", "optim", "optim_wrapper", "precision", "apex",
           "graph", "dist")
# Where the library takes another package or the compiler's own headers in: folder -> include prefixes.
ALSO = {"core": ("sched.h", "sys/resource.h", "sys/utsname.h", "unistd.h"),
        "dist": ("arpa/inet.h", "ifaddrs.h", "net/if.h", "netdb.h", "netinet/in.h", "sys/socket.h", "unistd.h"),
        "graph": ("hwy/",), "nn": ("hwy/",), "optim": ("hwy/", "xmmintrin.h")}
TORCH = ("ATen/", "c10/", "torch/", "caffe2/")
CUDA = re.compile(r"cuda(_\w+)?\.h|cub/.*|thrust/.*")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
UMBRELLAS = ("halfstep/train.h",)


def ring_of(path):
    """'library', 'trainer' or 'apps' of a file or an include, else None."""
    parts = path.split("/")
    if parts[0] == "apps":
        return "apps"
    if parts[0] != "halfstep":
        return None
    return "trainer" if parts[1] == "train" or path in UMBRELLAS else "library"


def allowed(path, quoted, name):
    ring, target = ring_of(path), ring_of(name)
    if target is not None:
        order = ("library", "trainer", "apps")
        return quoted and order.index(target) <= order.index(ring)
    if quoted:
        return False
    if ring != "library":
        return True
    if "/" not in name and not name.endswith((".h", ".hpp")):
        return True  # the standard library
    folder = path.split("/")[1]
    return name.startswith(TORCH + ALSO.get(folder, ())) or CUDA.fullmatch(name) is not None


def complaints(root):
    found = []
    files = [f for folder in ("halfstep", "apps") for f in sorted((root / folder).rglob("*"))
             if f.suffix in (".h", ".cpp", ".cu", ".cuh")]
    if not files:
        found.append(f"{root} must hold halfstep/ with sources, but there are none")
    for file in files:
        path = file.relative_to(root).as_posix()
        if ring_of(path) == "library" and path.count("/") > 1 and path.split("/")[1] not in LIBRARY:
            found.append(f"{path}: folder of an unknown ring; name it in LIBRARY of scripts/check_includes.py")
        for bracket, name in INCLUDE.findall(file.read_text()):
            if not allowed(path, bracket == '"', name):
                found.append(f"{path}: a file of the {ring_of(path)} must not include {name}")
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1])
    found = complaints(root)
    for complaint in found:
        print(f"[check_includes] {complaint}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
