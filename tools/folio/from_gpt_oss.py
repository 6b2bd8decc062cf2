# SPDX-License-Identifier: MIT
"""gpt-oss in Hugging Face folders: the experts of its checkpoints, which stand otherwise than all others.

    gate_up_proj [E, C, 2F], down_proj [E, F, C]    inputs first; columns 0, 2, 4 ... of gate_up are the gate's, the others up's
    gate_up_proj_bias [E, 2F], down_proj_bias [E, C]
or, as published, in mxfp4 (OCP Microscaling Formats 1.0), outputs first:
    NAME_blocks [E, rows, columns/32, 16]    bytes of two numbers e2m1, the lower half first; rows of gate_up take turns here, too
    NAME_scales [E, rows, columns/32]        e8m0: a block's numbers are times 2^(byte - 127)
Either way they are read here as three stacks [E, out, in] under names of their own. mxfp4's numbers are exact in bf16.
"""
import numpy as np

from . import ConvertError, quant
from .decoder import Part, Wanted
from .experts import BELOW, Experts
from .stored import Stored

DEFAULTS = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128,
            "attention_bias": True, "rope_theta": 150000.0, "num_local_experts": 128, "num_experts_per_tok": 4, "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                             "original_max_position_embeddings": 4096}}
STACKS = {"gate": ("gate_up_proj", 0, 2), "up": ("gate_up_proj", 1, 2), "down": ("down_proj", 0, 1)}   # tensor, first row, step
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class Stack(Stored):
    """[E, out, in] of every step-th output of each expert. A chunk of rows may belong to several experts."""

    def __init__(self, kind, shape, name, first, step):
        super().__init__(kind, shape, None, name)
        self.first, self.step = first, step

    def each(self, low, high):
        """(expert, its outputs as a slice), ascending."""
        n = self.shape[1]
        while low < high:
            e, at = divmod(low, n)
            end = min(at + high - low, n)
            yield e, slice(self.first + self.step * at, self.first + self.step * (end - 1) + 1, self.step)
            low += end - at


class Columns(Stack):
    """Of plain numbers [E, in, outputs]: a row is a column of the file, read in strides."""

    def __init__(self, of, name, first, step):
        experts, inputs, outputs = of.shape
        super().__init__(of.format, (experts, outputs // step, inputs), name, first, step)
        self.numbers = of.data.view(f"V{quant.FORMATS[of.format][1]}").reshape(of.shape)

    def raw(self, low, high):
        rows = [self.numbers[e][:, part].T for e, part in self.each(low, high)]
        return np.ascontiguousarray(np.concatenate(rows)).view(np.uint8).reshape(high - low, -1)


class Mxfp4(Stack):
    def __init__(self, blocks, scales, name, first, step):
        experts, outputs, count, _ = blocks.shape
        super().__init__("mxfp4", (experts, outputs // step, 32 * count), name, first, step)
        self.blocks, self.scales = blocks.data.reshape(blocks.shape), scales.data.reshape(scales.shape)

    def raw(self, low, high):
        raise AssertionError("mxfp4 is always converted")

    def floats(self, low, high):
        out = []
        for e, part in self.each(low, high):
            halves, scales = self.blocks[e][part], self.scales[e][part]
            if (scales == 255).any():
                raise ConvertError(f"'{self.name}': a scale of mxfp4 is not a number")
            x = E2M1[np.stack([halves & 15, halves >> 4], axis=-1)].reshape(*scales.shape, 32)
            out.append(np.ldexp(x, scales[..., None].astype(np.int32) - 127).reshape(len(scales), -1))
        return np.concatenate(out)


def _mxfp4(path, at, tensors):
    blocks, scales = tensors[at + "_blocks"], tensors.get(at + "_scales")
    shape = lambda s: "[" + ",".join(map(str, s.shape)) + "]" if s else "missing"
    good = len(blocks.shape) == 4 and blocks.shape[3] == 16 and scales and scales.shape == blocks.shape[:3]
    if not good or {blocks.format, scales.format} != {"u8"}:
        raise ConvertError(f"'{path}': '{at}_blocks' is {shape(blocks)} and '{at}_scales' {shape(scales)}, expected bytes "
                           "[experts, rows, n, 16] and [experts, rows, n]")
    return blocks, scales


def join(path, tensors):
    """The tensors with the experts' matrices as stacks, NAME[gate] and so on."""
    out = dict(tensors)
    for name, stored in tensors.items():
        whole = name.removesuffix("_blocks")
        wanted = [(part, first, step) for part, (end, first, step) in STACKS.items() if whole.endswith("mlp.experts." + end)]
        if not wanted:
            continue
        packed = whole != name
        matrices = _mxfp4(path, whole, tensors) if packed else (stored,)
        if not packed and (len(stored.shape) != 3 or stored.format not in quant.FORMATS):
            raise ConvertError(f"'{path}': tensor '{name}' is {stored.format} {list(stored.shape)}, expected floats [experts, in, out]")
        outputs = stored.shape[1 if packed else 2]
        if outputs % len(wanted):
            raise ConvertError(f"'{path}': tensor '{name}' has {outputs} outputs, which gate and up cannot share")
        for key in (name, whole + "_scales"):
            out.pop(key, None)
        for part, first, step in wanted:
            out[f"{whole}[{part}]"] = (Mxfp4 if packed else Columns)(*matrices, f"{whole}[{part}]", first, step)
    return out


class GptOssExperts(Experts):
    """Experts with biases everywhere: of the router's logits, and of all matrices."""

    def wanted(self, ours, layer, dim):
        out = super().wanted(ours, layer, dim)
        name = lambda part: self.names[part].format(i=layer)
        out.insert(1, Wanted(ours + "router.logit_bias", (self.count,), [Part(name("logit_bias"), (self.count,))], False))
        for part, (_, first, step) in STACKS.items():
            n = dim if part == "down" else self.width
            source = Part(name(part).removesuffix(f"[{part}]") + "_bias", (self.count, step * n))
            out.append(Wanted(f"{ours}experts.{part}.bias", (self.count, n), [source], False, lambda b, f=first, s=step: b[:, f::s]))
        return out


def experts(config, layers):
    """(Experts, per layer whether it has them), as those of experts.py. The router's softmax over the chosen is softmax, normalised."""
    config.refuse("swiglu_alpha", 1.702)
    config.refuse("swiglu_limit", 7.0)
    names = {part: f"{BELOW}experts.{tensor}[{part}]" for part, (tensor, _, _) in STACKS.items()}
    names |= {"router": BELOW + "router.weight", "logit_bias": BELOW + "router.bias"}
    return GptOssExperts(config.need("num_local_experts"), config.need("num_experts_per_tok"), config.need("intermediate_size"), names,
                         "swiglu_oai", normalise=True), [True] * layers
