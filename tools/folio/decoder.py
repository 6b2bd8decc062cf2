# SPDX-License-Identifier: MIT
"""The one form that every checkpoint is bent into: metadata and tensors of models/decoder.h.

A source fills in a Decoder (what the layers are) and a table of its own names. `wanted` then lists every tensor of the
.folio with the pieces of the source it is made of and the shape each must have; assemble.py does the rest.

A table maps a part to a name of the source, {i} being the layer: embed, positions, head, norm_out, norm_mix, norm_ffn,
q k v or qkv, out, q_norm, k_norm, sink, gate up or gate_up, down. Its bias is the name with ".bias" for ".weight".
"""
import math
from dataclasses import dataclass, field

from . import ConvertError

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
               "gelu_fast": "gelu_tanh", "relu": "relu", "relu2": "relu2", "relu_squared": "relu2"}


def check_rope(rope, size):
    """rope: mixer.N.* keys, empty if there is none; of heads of `size` elements."""
    dims = rope.get("rope_dims", size)
    if rope and (dims % 2 or not 0 < dims <= size):
        raise ConvertError(f"rope turns {dims} of {size} elements of a head, expected an even number")
    for key in ("theta", "rope_factor", "rope_original_context"):
        if not 0 < rope.get(key, 1) < math.inf:
            raise ConvertError(f"{key} is {rope[key]}, expected a positive number")


@dataclass
class Decoder:
    dim: int
    layers: int
    vocab: int
    context: int
    heads: int
    groups: int
    head_size: int
    ffn: int
    name: str = ""
    norm: str = "rms"
    eps: float = 1e-5
    learned_positions: bool = False
    act: str = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    own_head: bool = True           # false: embed.weight serves
    qk_norm: bool = False
    sink: bool = False              # a learned logit of each head
    window: int = 0
    windowed: list = field(default_factory=list)  # per layer, whether the window holds; empty: in all
    rope: dict = field(default_factory=dict)      # mixer.N.* keys; empty: none
    extra: dict = field(default_factory=dict)     # further mixer.N.* keys
    experts: object = None          # experts.Experts of the layers that have such
    sparse: list = field(default_factory=list)    # per layer, whether it has

    def check(self):
        """Before anything of these sizes is made."""
        for key in ("dim", "layers", "vocab", "context", "heads", "groups", "head_size", "ffn"):
            n, most = getattr(self, key), 2**16 if key == "layers" else 2**31
            if not isinstance(n, int) or not 0 < n < most:
                raise ConvertError(f"{key} is {n}, expected an integer from 1 to {most - 1}")
        if self.heads % self.groups:
            raise ConvertError(f"{self.heads} heads cannot share {self.groups} key groups")
        if not isinstance(self.window, int) or self.window < 0:
            raise ConvertError(f"the sliding window is {self.window}, expected a positive integer")
        if not isinstance(self.eps, (int, float)) or not 0 <= self.eps < 1:
            raise ConvertError(f"the norm's epsilon is {self.eps}")
        check_rope(self.rope, self.head_size)
        if self.experts:
            self.experts.check()
        return self

    def metadata(self):
        meta = {"arch": "decoder", "name": self.name, "dim": self.dim, "layers": self.layers, "vocab": self.vocab,
                "context": self.context, "norm.kind": self.norm, "norm.eps": float(self.eps)}
        if self.learned_positions:
            meta["embed.positions"] = "learned"
        windows = [self.window if w else 0 for w in (self.windowed or [True] * self.layers)]
        profiles = sorted(set(windows))
        for i, window in enumerate(profiles):
            mixer = {"kind": "attention", "heads": self.heads, "groups": self.groups, "head_size": self.head_size}
            if window:
                mixer["window"] = window
            if self.qk_norm:
                mixer["qk_norm"] = 1
            mixer |= self.rope | self.extra
            meta |= {f"mixer.{i}.{key}": value for key, value in mixer.items()}
        dense = {"kind": "dense", "dim": self.ffn, "gated": int(self.gated), "act": self.act}
        ffns = [self.experts.metadata() if sparse else dense for sparse in (self.sparse or [False] * self.layers)]
        kinds = [ffn for i, ffn in enumerate(ffns) if ffn not in ffns[:i]]
        for i, ffn in enumerate(kinds):
            meta |= {f"ffn.{i}.{key}": value for key, value in ffn.items()}
        meta["layer.mixer"] = [profiles.index(w) for w in windows]
        meta["layer.ffn"] = [kinds.index(ffn) for ffn in ffns]
        return meta


@dataclass
class Part:
    """Rows of a source's tensor. `shape` is what the source must have; `rows` a range of its output rows, all if None."""
    name: str
    shape: tuple
    rows: tuple = None
    transpose: bool = False


@dataclass
class Wanted:
    name: str
    shape: tuple
    parts: list
    matrix: bool = True  # false: a norm, a bias or positions, kept in f32
    make: object = None  # of something small: a function of the parts as float32 arrays that gives the tensor
    lay: object = None   # of one part that keeps its numbers and not its shape: a function of the Stored that gives another


class _List:
    def __init__(self, d, table, conv1d):
        self.d, self.table, self.conv1d, self.wanted = d, table, conv1d, []

    def name(self, part, layer, bias=False):
        name = self.table[part].format(i=layer)
        return name.removesuffix(".weight") + ".bias" if bias else name

    def vector(self, ours, part, n, layer=None, bias=False):
        self.wanted.append(Wanted(ours, (n,), [Part(self.name(part, layer, bias), (n,))], False))

    def norm(self, ours, part, n, layer=None):
        self.vector(ours + ".weight", part, n, layer)
        if self.d.norm == "layer":
            self.vector(ours + ".bias", part, n, layer, bias=True)

    def linear(self, ours, parts, columns, bias, layer):
        """parts: (part of the table, rows of that tensor, rows taken of it or None), stacked."""
        weights, biases, total = [], [], 0
        for part, rows, taken in parts:
            shape = (columns, rows) if self.conv1d else (rows, columns)
            weights.append(Part(self.name(part, layer), shape, taken, self.conv1d))
            biases.append(Part(self.name(part, layer, bias=True), (rows,), taken))
            total += taken[1] - taken[0] if taken else rows
        self.wanted.append(Wanted(ours + ".weight", (total, columns), weights))
        if bias:
            self.wanted.append(Wanted(ours + ".bias", (total,), biases, False))


def wanted(d, table, conv1d=False):
    """Every tensor of the .folio, in order. conv1d: the source's matrices are [in, out], as GPT-2's are."""
    out = _List(d, table, conv1d)
    C, H, G, D, F = d.dim, d.heads, d.groups, d.head_size, d.ffn
    out.wanted.append(Wanted("embed.weight", (d.vocab, C), [Part(out.name("embed", None), (d.vocab, C))]))
    if d.learned_positions:
        positions = Part(out.name("positions", None), (d.context, C))
        out.wanted.append(Wanted("embed.positions", (d.context, C), [positions], False))
    for i in range(d.layers):
        layer = f"layer.{i}."
        out.norm(layer + "norm_mix", "norm_mix", C, i)
        if "qkv" in table:
            qkv = [("qkv", (H + 2 * G) * D, None)]
        else:
            qkv = [("q", H * D, None), ("k", G * D, None), ("v", G * D, None)]
        out.linear(layer + "mix.qkv", qkv, C, d.qkv_bias, i)
        if d.qk_norm:
            out.vector(layer + "mix.q_norm.weight", "q_norm", D, i)
            out.vector(layer + "mix.k_norm.weight", "k_norm", D, i)
        if d.sink:
            out.vector(layer + "mix.sink", "sink", H, i)
        out.linear(layer + "mix.out", [("out", C, None)], H * D, d.out_bias, i)
        out.norm(layer + "norm_ffn", "norm_ffn", C, i)
        if d.sparse and d.sparse[i]:
            out.wanted += d.experts.wanted(layer + "ffn.", i, C)
            continue
        if d.gated:
            gate = ("gate_up", 2 * F, (0, F)) if "gate_up" in table else ("gate", F, None)
            out.linear(layer + "ffn.gate", [gate], C, d.ffn_bias, i)
        up = ("gate_up", 2 * F, (F, 2 * F)) if "gate_up" in table else ("up", F, None)
        out.linear(layer + "ffn.up", [up], C, d.ffn_bias, i)
        out.linear(layer + "ffn.down", [("down", C, None)], F, d.ffn_bias, i)
    out.norm("norm_out", "norm_out", C)
    if d.own_head:
        out.wanted.append(Wanted("head.weight", (d.vocab, C), [Part(out.name("head", None), (d.vocab, C))]))
    return out.wanted
