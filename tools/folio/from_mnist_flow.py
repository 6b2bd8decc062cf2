# SPDX-License-Identifier: MIT
"""The vision transformer of github.com/sofia-dominguezc/MNIST-diffusion, a .pth of its state dict. models/image_flow.h describes what comes
out.

The patches' convolutions in front and behind have the stride of their kernel: they are products. What the shapes do not say is the number
of heads, which the repository's pickle beside the file has and which is 4 in all that were published.
"""
import math
import re

import numpy as np

from . import ConvertError
from .assemble import Model
from .decoder import Part, Wanted

HEADS = 4
LAYER = (("mix.qkv", "self_attn.in_proj", True), ("mix.out", "self_attn.out_proj", True), ("norm_mix", "norm1", False),
         ("ffn.up", "linear1", True), ("ffn.down", "linear2", True), ("norm_ffn", "norm2", False))


def known(tensors):
    return {"pos_embed", "patch_embed.weight", "unpatch.weight", "y_encoder.weight"} <= set(tensors)


class Flow:
    """What assemble.py asks of the thing that a file holds."""
    text = False   # wants no tokenizer
    name = ""

    def __init__(self, path, tensors):
        self.path, self.tensors = path, tensors
        patches, self.patch = tensors["pos_embed"].shape[1], tensors["patch_embed.weight"].shape[-1]
        self.dim, self.channels = tensors["patch_embed.weight"].shape[:2]
        self.side = math.isqrt(patches)
        self.layers = len({name.split(".")[1] for name in tensors if re.match(r"transformer\.\d+\.", name)})
        if self.side**2 != patches or self.dim % HEADS:
            raise ConvertError(f"'{path}': {patches} patches are no square, or {self.dim} channels not those of {HEADS} heads")

    def check(self):
        return self

    def metadata(self):
        side = self.side * self.patch
        up = self.tensors.get("transformer.0.linear1.weight")
        return {"arch": "image_flow", "name": self.name, "image.channels": self.channels, "image.height": side, "image.width": side,
                "image.patch": self.patch, "image.dim": self.dim, "image.layers": self.layers, "image.heads": HEADS,
                "image.ffn": up.shape[0] if up else 1, "image.classes": self.tensors["y_encoder.weight"].shape[0] - 1}

    def wanted(self):
        C, p, c = self.dim, self.patch, self.channels
        one = lambda ours, theirs, shape, source, make: Wanted(ours, shape, [Part(theirs, source)], False, make)
        classes = self.tensors["y_encoder.weight"].shape
        out = [one("flow.in.weight", "patch_embed.weight", (C, c * p * p), (C, c, p, p), lambda w: w.reshape(C, -1)),
               Wanted("flow.in.bias", (C,), [Part("patch_embed.bias", (C,))], False),
               one("flow.position", "pos_embed", (self.side**2, C), (1, self.side**2, C), lambda w: w[0]),
               Wanted("flow.class.weight", classes, [Part("y_encoder.weight", classes)]),
               one("flow.out.weight", "unpatch.weight", (c * p * p, C), (C, c, p, p), lambda w: w.reshape(C, -1).T),
               one("flow.out.bias", "unpatch.bias", (c * p * p,), (c,), lambda b: np.repeat(b, p * p))]
        for i in range(self.layers):
            for ours, theirs, matrix in LAYER:
                for end in ("weight", "bias"):
                    name = f"transformer.{i}.{theirs}{'_' if theirs.endswith('in_proj') else '.'}{end}"
                    stored = self.tensors.get(name)
                    if stored is None:
                        raise ConvertError(f"'{self.path}' has no tensor '{name}'")
                    out.append(Wanted(f"layer.{i}.{ours}.{end}", stored.shape, [Part(name, stored.shape)], matrix and end == "weight"))
        return out


def load(path, tensors):
    return Model(path, Flow(path, tensors), tensors=tensors)
