# SPDX-License-Identifier: MIT
"""llama2.c checkpoints: version 0 (seven int32, then float32), 1 ("ak42", float32) and 2 ("ak42", int8 in groups).

    version 0   dim hidden layers heads kv_heads vocab(negative: own head) context | embed, then each kind of tensor for all
                layers together: norm_mix q k v out norm_ffn gate down up | norm_out | cos and sin tables | head?
    1, 2        magic version, the same seven, u8 shared head (2: int32 group), zeros up to 256 | all norms | embed q k v out
                gate down up, each for all layers (2: every tensor int8, then its scales) | head?
Rope turns adjacent pairs; norm eps is 1e-5 and theta 10000, which the file does not say.
"""
import numpy as np

from . import ConvertError
from .assemble import Model
from .decoder import Decoder
from .format import Cursor
from .stored import Groups, Stored, map_file

MAGIC = b"24ka"  # 0x616b3432, little endian
TABLE = {"embed": "tok_embeddings.weight", "head": "output.weight", "norm_out": "norm.weight",
         "norm_mix": "layers.{i}.attention_norm.weight", "norm_ffn": "layers.{i}.ffn_norm.weight",
         "q": "layers.{i}.attention.wq.weight", "k": "layers.{i}.attention.wk.weight", "v": "layers.{i}.attention.wv.weight",
         "out": "layers.{i}.attention.wo.weight", "gate": "layers.{i}.feed_forward.w1.weight",
         "down": "layers.{i}.feed_forward.w2.weight", "up": "layers.{i}.feed_forward.w3.weight"}


class _Walk:
    """Takes tensors from the file in their order."""

    def __init__(self, path, data, at, group=0):
        self.path, self.data, self.at, self.group, self.tensors = path, data, at, group, {}

    def bytes(self, n, what):
        if n > len(self.data) - self.at:
            raise ConvertError(f"'{self.path}' is truncated: {what} needs {n} bytes at {self.at}, the file has {len(self.data)}")
        self.at += n
        return self.data[self.at - n:self.at]

    def take(self, name, shape, whole=False):
        """whole: float32 even in a version 2 file."""
        n = int(np.prod(shape))
        if not self.group or whole:
            self.tensors[name] = Stored("f32", shape, self.bytes(4 * n, f"'{name}'"))
            return
        if n % self.group:
            raise ConvertError(f"'{self.path}': '{name}' of {n} elements is not whole groups of {self.group}")
        q = self.bytes(n, f"'{name}'")
        scales = self.bytes(4 * (n // self.group), f"the scales of '{name}'")
        self.tensors[name] = Groups(shape, q, scales, self.group)


def is_llama2c(path, data):
    """Seven small integers that a Llama could have, or the magic."""
    if bytes(data[:4]) == MAGIC:
        return True
    if len(data) < 28:
        return False
    dim, hidden, layers, heads, groups, vocab, context = np.frombuffer(data[:28], "<i4").tolist()
    return (0 < heads <= dim < 2**17 and 0 < hidden < 2**20 and 0 < layers < 2**10 and 0 < groups <= heads
            and 0 < abs(vocab) < 2**24 and 0 < context < 2**24 and dim % heads == 0)


def load(path):
    data = map_file(path)
    cursor = Cursor(path, data)
    version, group, start = 0, 0, 28
    if bytes(data[:4]) == MAGIC:
        _, version = cursor.numbers("II")
        if version not in (1, 2):
            raise ConvertError(f"'{path}' is a llama2.c file of version {version}; 0, 1 and 2 are known")
        start = 256
    dim, hidden, layers, heads, groups, vocab, context = cursor.numbers("7i")
    own = vocab < 0
    if version:
        own = cursor.number("B") == 0
    if version == 2:
        group = cursor.number("i")
        if group < 1:
            raise ConvertError(f"'{path}' has groups of {group}")
    if not is_llama2c(path, np.array([dim, hidden, layers, heads, groups, vocab, context], "<i4").view(np.uint8)):
        raise ConvertError(f"'{path}' has an impossible header: dim {dim}, ffn {hidden}, layers {layers}, heads {heads}, "
                           f"groups {groups}, vocab {vocab}, context {context}")
    size = dim // heads
    d = Decoder(dim=dim, layers=layers, vocab=abs(vocab), context=context, heads=heads, groups=groups, head_size=size,
                ffn=hidden, own_head=own, rope={"rope": "adjacent", "theta": 10000.0})
    walk = _Walk(path, data, start, group)
    _tensors(walk, d, version)
    if walk.at != len(data):
        raise ConvertError(f"'{path}' has {len(data) - walk.at} bytes after its last tensor")
    model = Model(path, d, TABLE, tensors=walk.tensors)
    if group:
        model.notes.append(f"int8 in groups of {group} was dequantised (q times its float32 scale)")
    return model


def _tensors(walk, d, version):
    shapes = {"q": (d.heads * d.head_size, d.dim), "k": (d.groups * d.head_size, d.dim), "v": (d.groups * d.head_size, d.dim),
              "out": (d.dim, d.dim), "gate": (d.ffn, d.dim), "down": (d.dim, d.ffn), "up": (d.ffn, d.dim)}

    def every_layer(part, shape, whole=False):
        for i in range(d.layers):
            walk.take(TABLE[part].format(i=i), shape, whole)

    if version == 0:
        walk.take(TABLE["embed"], (d.vocab, d.dim))
        every_layer("norm_mix", (d.dim,))
        for part in ("q", "k", "v", "out"):
            every_layer(part, shapes[part])
        every_layer("norm_ffn", (d.dim,))
        for part in ("gate", "down", "up"):
            every_layer(part, shapes[part])
        walk.take(TABLE["norm_out"], (d.dim,))
        walk.bytes(4 * d.context * d.head_size, "the table of cosines and sines")
    else:
        every_layer("norm_mix", (d.dim,), whole=True)
        every_layer("norm_ffn", (d.dim,), whole=True)
        walk.take(TABLE["norm_out"], (d.dim,), whole=True)
        walk.take(TABLE["embed"], (d.vocab, d.dim))
        for part in ("q", "k", "v", "out", "gate", "down", "up"):
            every_layer(part, shapes[part])
    if d.own_head:
        walk.take(TABLE["head"], (d.vocab, d.dim))
