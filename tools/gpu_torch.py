#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""PyTorch's best at what `bench ops` and `bench model` measure, on the same card.

    bench ops --list --json > cases.json
    python tools/gpu_torch.py --device cuda:0 --cases cases.json --json torch.json

Products go through F.linear (cuBLAS), the MLP also through torch.compile, attention through scaled_dot_product_attention
with each of its kernels forced in turn: flash, cuDNN, and whatever it would choose itself. Quantised weights have no
counterpart there: bf16 stands in. Calls rotate among several sets of weights, so that no cache serves them; they are
captured as a CUDA graph and replayed where PyTorch can, timed by events; a figure is the median of the repeats. GPT-2
runs eagerly, as people run it: whole steps by the host's clock, and the memory that PyTorch has asked the card for.

Without a card (--device cpu --quick) it runs tiny sizes, to show that it works. Exit code 77: no PyTorch, or no such
device. What fails is written down, not fatal: a kernel that refuses a shape is an answer as well.
"""
import argparse
import json
import math
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as missing:
    print(f"gpu_torch: no PyTorch here: {missing}")
    sys.exit(77)

TYPES = {"f32": torch.float32, "f16": torch.float16}    # any other: bf16
CACHE_BYTES = 128e6                                     # sets of weights together are larger than this
ONE_OF_EACH = [
    {"case": "matmul bf16", "op": "matmul", "type": "bf16", "tokens": 8, "inputs": 256, "features": 192},
    {"case": "mlp bf16", "op": "mlp", "type": "bf16", "tokens": 8, "inputs": 256, "features": 192},
    {"case": "attend prefill", "op": "attend", "type": "f16", "tokens": 96, "depth": 96, "sequences": 1, "heads": 4, "groups": 2,
     "head_size": 64},
    {"case": "attend decode", "op": "attend", "type": "f16", "tokens": 1, "depth": 200, "sequences": 3, "heads": 4, "groups": 2,
     "head_size": 64},
]


class Clock:
    """Seconds of a call, by events on a card, by the host's clock elsewhere."""

    def __init__(self, device, quick):
        self.device, self.cuda, self.quick = device, device.type == "cuda", quick

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def once(self, work):
        if not self.cuda:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def captured(self, work):
        """`work` as a graph that is replayed; `work` itself where it cannot be captured."""
        if not self.cuda:
            return work
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                work()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                work()
            return graph.replay
        except RuntimeError:
            self.wait()
            return work

    def seconds(self, calls):
        """The median of one call of `calls`, which do the same on other tensors."""
        def all_of_them():
            for call in calls:
                call()
        all_of_them()
        self.wait()
        replay = self.captured(all_of_them)
        replay()
        self.wait()
        shortest = self.once(replay)
        times = 1 if self.quick else max(1, min(100, int(0.01 / max(shortest, 1e-9))))

        def several():
            for _ in range(times):
                replay()
        rounds = 1 if self.quick else 5
        return statistics.median(self.once(several) for _ in range(rounds)) / times / len(calls)


def sets_of(case, element_bytes, quick):
    if case["op"] == "attend":
        size = 2 * case["sequences"] * case["depth"] * case["groups"] * case["head_size"]
    else:
        size = case["inputs"] * case["features"] * (3 if case["op"] == "mlp" else 1)
    return max(1, min(32, math.ceil((1e6 if quick else CACHE_BYTES) / (size * element_bytes))))


def random(device, dtype, *shape):
    return torch.randn(*shape, device=device, dtype=dtype) * 0.03


def products(case, device, dtype, quick, compiled):
    """(who, calls) for the products of a case."""
    t, k, n = case["tokens"], case["inputs"], case["features"]
    x = random(device, dtype, t, k)
    sets = range(sets_of(case, dtype.itemsize, quick))
    if case["op"] == "matmul":
        weights = [random(device, dtype, n, k) for _ in sets]
        yield "linear", [lambda w=w: F.linear(x, w) for w in weights]
        return
    weights = [(random(device, dtype, n, k), random(device, dtype, n, k), random(device, dtype, k, n)) for _ in sets]

    def mlp(gate, up, down):
        return x + F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
    yield "eager", [lambda w=w: mlp(*w) for w in weights]
    if compiled:
        fast = torch.compile(mlp, dynamic=False)
        yield "torch.compile", [lambda w=w: fast(*w) for w in weights]


def attention(case, device, dtype, quick, _):
    """(who, calls) for each kernel of scaled_dot_product_attention."""
    b, t, depth, h, g, d = (case[key] for key in ("sequences", "tokens", "depth", "heads", "groups", "head_size"))
    prefill = t == depth
    q = random(device, dtype, b, h, t, d)
    pools = [(random(device, dtype, b, g, depth, d), random(device, dtype, b, g, depth, d))
             for _ in range(sets_of(case, dtype.itemsize, quick))]

    def call(k, v, backend):
        def attend():
            return F.scaled_dot_product_attention(q, k, v, is_causal=prefill, enable_gqa=h != g)
        if backend is None:
            return attend()
        with sdpa_kernel([backend]):
            return attend()
    for who, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION), ("default", None)):
        yield f"SDPA {who}", [lambda k=k, v=v, backend=backend: call(k, v, backend) for k, v in pools]


def measure_case(case, clock, compiled, known):
    """One row per way of PyTorch to do it; bf16 stands in for several types and is measured once."""
    dtype = TYPES.get(case["type"], torch.bfloat16)
    key = (dtype,) + tuple(value for name, value in case.items() if name not in ("case", "type", "flops", "bytes"))
    if key not in known:
        known[key] = rows = []
        make = attention if case["op"] == "attend" else products
        try:
            for who, calls in make(case, clock.device, dtype, clock.quick, compiled):
                row = {"who": f"{who} {str(dtype).removeprefix('torch.')}"}
                try:
                    row["seconds"] = clock.seconds(calls)
                except Exception as error:   # noqa: BLE001: what refuses a shape raises many kinds
                    row["error"] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                rows.append(row)
        except torch.OutOfMemoryError as error:
            rows.append({"who": str(dtype), "error": str(error).splitlines()[0][:200]})
    return [{"case": case["case"], **row} for row in known[key]]


class Gpt2(nn.Module):
    """GPT-2's decoder with a cache of fixed size; random weights."""

    def __init__(self, layers=12, dim=768, heads=12, vocab=50257, context=1024):
        super().__init__()
        self.heads = heads
        self.embed, self.positions = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(nn.ModuleDict({
            "norm_mix": nn.LayerNorm(dim), "qkv": nn.Linear(dim, 3 * dim), "out": nn.Linear(dim, dim),
            "norm_ffn": nn.LayerNorm(dim), "up": nn.Linear(dim, 4 * dim), "down": nn.Linear(4 * dim, dim)}) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.context = context

    def cache(self):
        weight = self.embed.weight
        shape = (2, self.heads, self.context, weight.shape[1] // self.heads)
        return [torch.zeros(shape, device=weight.device, dtype=weight.dtype) for _ in self.blocks]

    def forward(self, ids, at, cache):
        """Logits of the last of `ids`, which stand at place `at` and on."""
        t = ids.shape[0]
        x = self.embed(ids) + self.positions.weight[at:at + t]
        for block, rows in zip(self.blocks, cache):
            q, k, v = block["qkv"](block["norm_mix"](x)).view(t, 3, self.heads, -1).permute(1, 2, 0, 3)
            rows[0, :, at:at + t], rows[1, :, at:at + t] = k, v
            o = F.scaled_dot_product_attention(q[None], rows[None, 0, :, :at + t], rows[None, 1, :, :at + t], is_causal=t > 1)[0]
            x = x + block["out"](o.transpose(0, 1).reshape(t, -1))
            x = x + block["down"](F.gelu(block["up"](block["norm_ffn"](x)), approximate="tanh"))
        return F.linear(self.norm(x[-1:]), self.embed.weight)


@torch.inference_mode()
def measure_gpt2(kind, clock):
    """Eager tokens per second, prefill and decode, and memory: the keys of `bench model`."""
    if clock.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(clock.device)
    prompt, decoded, repeats = (16, 4, 1) if clock.quick else (512, 64, 5)
    model = Gpt2(layers=2, dim=64, heads=2, vocab=500) if clock.quick else Gpt2()
    model = model.to(clock.device, TYPES.get(kind, torch.bfloat16)).eval()
    cache, ids = model.cache(), torch.arange(prompt, device=clock.device)

    def rate(tokens, work):
        best = 0
        for _ in range(repeats + 1):   # the first brings everything to life
            clock.wait()
            start = time.perf_counter()
            work()
            clock.wait()
            best = max(best, tokens / (time.perf_counter() - start))
        return best

    def decode():
        for i in range(decoded):
            model(ids[:1], prompt // 8 + i, cache)
    row = {"shape": "gpt2", "type": kind, "prompt": prompt, "prefill_tps": rate(prompt, lambda: model(ids, 0, cache)),
           "decode_tps": rate(decoded, decode)}
    if clock.cuda:
        row["memory_bytes"] = torch.cuda.max_memory_allocated(clock.device)
    return row


def describe(device):
    words = {"torch": torch.__version__, "device": "cpu", "cudnn": None}
    if device.type == "cuda":
        words.update(device=torch.cuda.get_device_name(device), cudnn=torch.backends.cudnn.version(), cuda=torch.version.cuda)
    return words


def arguments():
    parser = argparse.ArgumentParser(prog="gpu_torch", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--cases", help="what `bench ops --list --json` prints; otherwise one tiny case of each op")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--quick", action="store_true", help="once, tiny: to see that everything works")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes its time")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no case after so many seconds")
    return parser.parse_args()


def main():
    flags = arguments()
    start = time.monotonic()
    device = torch.device(flags.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"gpu_torch: PyTorch {torch.__version__} sees no CUDA device")
        return 77
    cases = ONE_OF_EACH
    if flags.cases:
        with open(flags.cases, encoding="utf-8") as file:
            cases = json.load(file)["cases"]
    clock, known = Clock(device, flags.quick), {}
    result = describe(device) | {"cases": [], "models": [], "left_out": []}
    torch.manual_seed(1)
    for kind in ("f32", "bf16"):
        result["models"].append(measure_gpt2(kind, clock))
        print(result["models"][-1], flush=True)
    with torch.inference_mode():
        for case in cases:
            if time.monotonic() - start > flags.seconds:
                result["left_out"].append(case["case"])
                continue
            for row in measure_case(case, clock, not flags.no_compile, known):
                result["cases"].append(row)
                print(f"{row['case']:44} {row['who']:24} "
                      + (f"{row['seconds'] * 1e6:10.1f} us" if "seconds" in row else f"refused: {row['error']}"), flush=True)
    if result["left_out"]:
        print(f"gpu_torch: {len(result['left_out'])} cases left out: {flags.seconds:g} s were over")
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
