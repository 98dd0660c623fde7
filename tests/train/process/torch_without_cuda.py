"""Makes the torch wheel that scripts/setup installs without its CUDA libraries importable: for torchrun, which computes nothing."""
import os
import re
import subprocess
from pathlib import Path

# The CUDA libraries libtorch_cuda.so and libtorch_python.so are linked with, by how their functions' names begin. libcudart is there.
MISSING = re.compile(r"cublas|cudnn|cufft|cuFile|cusolver|cusparse|nccl|nvrtc|nvshmem")
LIBRARIES = re.compile(r"\[(lib(?:cublas|cublasLt|cudnn|cufft|cufile|cusolver|cusparse|cusparseLt|nccl|nvrtc|nvshmem_host)\.so\.\d+)\]")


def _lines(command, file):
    return subprocess.run([*command, file], capture_output=True, text=True, check=True).stdout.splitlines()


def make_stand_ins(torch, folder):
    """Puts empty libraries of those names into the folder, and a sitecustomize.py that loads them first, with the functions, none of which
    is ever called. `torch` is the wheel's folder. PYTHONPATH=folder then makes `import torch` work."""
    users = [torch / "lib" / name for name in ("libtorch_cuda.so", "libtorch_python.so", "libtorch_nvshmem.so") if (torch / "lib" / name).exists()]
    functions = {line.split()[-1].split("@")[0] for user in users for line in _lines(["nm", "-D", "--undefined-only"], user)}
    libraries = sorted({name for user in users for line in _lines(["readelf", "-d"], user) for name in LIBRARIES.findall(line)})
    source = folder / "functions.s"
    source.write_text(".section .note.GNU-stack\n.data\n.balign 64\nnothing: .zero 4096\n"
                      + "".join(f".globl {name}\n.set {name}, nothing\n" for name in sorted(functions) if MISSING.match(name)))
    for name in ["functions.so", *libraries]:
        own = [source] if name == "functions.so" else ["-x", "c", os.devnull]
        subprocess.run(["cc", "-shared", f"-Wl,-soname,{name}", "-o", folder / name, *own], check=True)
    loads = "".join(f"ctypes.CDLL({str(folder / name)!r}, ctypes.RTLD_GLOBAL)\n" for name in ["functions.so", *libraries])
    (folder / "sitecustomize.py").write_text("import ctypes\n" + loads)


def why_no_torchrun(python, folder):
    """Why that Python, with PYTHONPATH=folder, can't run torchrun, or nothing. Fills the folder where that helps."""
    found = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    try:
        torch = subprocess.run([python, "-c", found], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"{python} has no PyTorch (scripts/setup installs it; HALFSTEP_TEST_PYTHON names another)"
    if not list(Path(torch).parent.glob("nvidia/cudnn")) and (Path(torch) / "lib/libtorch_cuda.so").exists():
        make_stand_ins(Path(torch), folder)
    trial = subprocess.run([python, "-c", "import torch.distributed.run"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(folder)})
    return f"{python} can't import torch.distributed.run: {trial.stderr.strip().splitlines()[-1]}" if trial.returncode else ""
