"""The Python side of the benchmark; speaks the protocol of worker.cpp, and {"do": "export"}, which writes the weights and the
batch both sides start from. Run by bench.py with the Python that has PyTorch:  python_worker.py TENSOR_BYTES_LIBRARY [flush-denormal]"""
import ctypes
import json
import sys
import time
import types

import safetensors.torch
import torch
import torch._dynamo
import torch.nn.functional as F

import networks

# More compiled variants than Dynamo allows by default; past its limit it would go on without compiling.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True

# Before the first op: its threads inherit it.
if "flush-denormal" in sys.argv[2:]:
    torch.set_flush_denormal(True)

counter = ctypes.CDLL(sys.argv[1])
counter.tensor_bytes_now.restype = counter.tensor_bytes_peak.restype = ctypes.c_int64

# name: network, batch of n, n
WORKLOADS = {
    "mlp_small": (lambda: networks.Mlp(784, 256, 10), lambda n: (torch.rand(n, 784), torch.randint(10, (n,))), 64),
    "mlp_large": (lambda: networks.Mlp(784, 2048, 2048, 10), lambda n: (torch.rand(n, 784), torch.randint(10, (n,))), 512),
    "resnet18": (networks.ResNet18, lambda n: (torch.rand(n, 1, 28, 28), torch.randint(10, (n,))), 64),
    "gpt": (networks.Gpt, lambda n: (torch.randint(256, (n, 128)), torch.randint(256, (n * 128,))), 16),
}

# name: fused, channels_last, compiled forward, compiled optimizer
VARIANTS = {
    "default": (False, False, False, False),
    "fused": (True, False, False, False),
    "fused, channels_last": (True, True, False, False),
    "fused, compiled forward": (True, False, True, False),
    "compiled forward and optimizer": (False, False, True, True),
}

# As low_precision_support() tells it.
with open("/proc/cpuinfo", encoding="utf-8") as cpu:
    FLAGS = set(cpu.read().split())
REFERENCE = torch.rand(1024, 1024, dtype=torch.bfloat16 if FLAGS & {"avx512_bf16", "amx_bf16"} else torch.float32)


def reference_rate():
    start = time.perf_counter()
    for _ in range(3):
        REFERENCE @ REFERENCE
    return 3 * 2 * 1024**3 / (time.perf_counter() - start) / 1e9


def hello(_):
    return {"torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads(),
            "workloads": list(WORKLOADS), "variants": [{"name": name, "images_only": v[1], "float32": ""} for name, v in VARIANTS.items()]}


def check_bytes(_):
    mega = 1 << 20
    counter.tensor_bytes_start()
    before = counter.tensor_bytes_now()
    first = torch.empty(mega, dtype=torch.uint8)
    second = torch.empty(mega // 2, dtype=torch.float32)
    del first
    third = torch.empty(mega // 4, dtype=torch.bfloat16)
    result = {"now": counter.tensor_bytes_now() - before, "peak": counter.tensor_bytes_peak() - before}
    counter.tensor_bytes_stop()
    del second, third
    return result


def new_batch(workload, size):
    torch.manual_seed(1)
    return WORKLOADS[workload][1](size or WORKLOADS[workload][2])


def export(request):
    torch.manual_seed(0)
    net = WORKLOADS[request["workload"]][0]()
    x, y = new_batch(request["workload"], request.get("batch", 0))
    tensors = {f"model.{name}": p.detach() for name, p in net.named_parameters()}
    safetensors.torch.save_file(tensors | {"input": x, "target": y}, request["file"])
    return {}


def function_of_its_own(function):
    """A copy with its own code object: Dynamo hangs the compiled versions on that, and would search those of other variants."""
    return types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)


def make_step(request):
    fused, channels_last, compiled_forward, compiled_optimizer = VARIANTS[request["variant"]]
    net = WORKLOADS[request["workload"]][0]()
    tensors = safetensors.torch.load_file(request["file"])
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(tensors[f"model.{name}"])
    x, y = tensors["input"].clone(), tensors["target"].clone()
    del tensors
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True if fused else None)
    autocast = request["precision"] == "bf16"

    def loss_of(x, y):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return F.cross_entropy(net(x), y)

    forward = torch.compile(function_of_its_own(loss_of)) if compiled_forward else loss_of
    update = torch.compile(optimizer.step) if compiled_optimizer else optimizer.step

    def step():
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        update()
        return loss

    return step


def prepare(request, steps):
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    counter.tensor_bytes_start()
    before = counter.tensor_bytes_now()
    step = make_step(request)
    state = counter.tensor_bytes_now() - before
    counter.tensor_bytes_reset_peak()
    losses, seconds = [], []
    for _ in range(request.get("steps", 3)):
        start = time.perf_counter()
        losses.append(step().item())
        seconds.append(time.perf_counter() - start)
    peak = counter.tensor_bytes_peak() - before - state
    counter.tensor_bytes_stop()
    steps[request["id"]] = step
    return {"losses": losses, "seconds": seconds, "state_bytes": state, "peak_bytes": peak,
            "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs}


def sample(request, steps):
    step, count = steps[request["id"]], request["steps"]
    step()
    before = reference_rate()
    start = time.perf_counter()
    for _ in range(count):
        step()
    seconds = time.perf_counter() - start
    return {"seconds": seconds / count, "reference": min(before, reference_rate())}


def forget(request, steps):
    del steps[request["id"]]
    return {}


def main():
    # The protocol has standard output for itself; what libraries print goes to standard error.
    replies = sys.stdout
    sys.stdout = sys.stderr
    steps = {}
    requests = {"hello": hello, "check_bytes": check_bytes, "export": export,
                "prepare": lambda r: prepare(r, steps), "sample": lambda r: sample(r, steps), "forget": lambda r: forget(r, steps)}
    reference_rate()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            reply = requests[request["do"]](request)
        except Exception as error:  # sent to the driver, which stops
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
