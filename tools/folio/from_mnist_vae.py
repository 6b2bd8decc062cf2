# SPDX-License-Identifier: MIT
"""The variational autoencoder of github.com/sofia-dominguezc/MNIST-diffusion, a .pth of its state dict. models/image_vae.h describes what
comes out.

What the shapes do not say is the number of heads, which the repository's pickle beside the file has and which is 3 in all that were
published; and the sizes, 28 and 6, which stand in its source.
"""
import re

import numpy as np

from . import ConvertError
from .assemble import Model
from .decoder import Part, Wanted

HEADS, SIDE, LATENT = 3, 28, 6
QKV = ("q_proj", "k_proj", "v_proj")


def known(tensors):
    return {"encoder.0.weight", "decoder.1.attn.q_proj.weight", "decoder.1.conv.network.2.weight"} <= set(tensors)


class Vae:
    """What assemble.py asks of the thing that a file holds."""
    text = False   # wants no tokenizer
    name = ""

    def __init__(self, path, tensors):
        self.path, self.tensors = path, tensors
        self.layers = len({name.split(".")[1] for name in tensors if re.match(r"decoder\.\d+\.attn\.", name)})
        self.channels, self.inner = self.shape("encoder.2.weight")[:2]
        self.ffn, self.attention = self.shape("decoder.1.conv.network.0.weight")[0], self.shape("decoder.1.attn.q_proj.weight")[0]
        means = self.shape(f"encoder.{5 + self.layers}.weight")[0]
        if means != 2:
            raise ConvertError(f"'{path}' puts out {means} numbers a place, expected a mean and a variance; the plain autoencoder of that "
                               "repository is not supported")
        if self.attention % HEADS:
            raise ConvertError(f"'{path}': {self.attention} channels of attention are not those of {HEADS} heads")

    def shape(self, name):
        stored = self.tensors.get(name)
        if stored is None or len(stored.shape) < 2:
            raise ConvertError(f"'{self.path}' has no tensor '{name}' of a layer")
        return stored.shape

    def check(self):
        return self

    def metadata(self):
        return {"arch": "image_vae", "name": self.name, "image.side": SIDE, "vae.side": LATENT, "vae.channels": self.channels,
                "vae.inner": self.inner, "vae.layers": self.layers, "vae.heads": HEADS, "vae.attention": self.attention,
                "vae.ffn": self.ffn}

    def wanted(self):
        C, c, A, F, L = self.channels, self.inner, self.attention, self.ffn, self.layers
        out = []

        def bias(ours, theirs, n):
            out.append(Wanted(ours + ".bias", (n,), [Part(theirs + ".bias", (n,))], False))

        def taps(ours, theirs, shape):   # outermost, as ops/conv.h has them
            n, inside, high, wide = shape
            depthwise = ours.endswith("space")
            lay = (lambda w: w.reshape(n, -1).T) if depthwise else (lambda w: w.transpose(2, 3, 1, 0).reshape(high * wide, inside, n))
            to = (high * wide, n) if depthwise else (high * wide, inside, n)
            out.append(Wanted(ours + ".weight", to, [Part(theirs + ".weight", shape)], False, lambda w: np.ascontiguousarray(lay(w))))
            bias(ours, theirs, n)

        def matrix(ours, theirs, n, inside, square=True):   # square: stored as a convolution of 1x1
            shape = (n, inside, 1, 1) if square else (n, inside)
            out.append(Wanted(ours + ".weight", (n, inside), [Part(theirs + ".weight", shape)], False, lambda w: w.reshape(n, inside)))
            bias(ours, theirs, n)

        taps("encoder.in", "encoder.0", (c, 1, 5, 5))
        taps("encoder.conv", "encoder.2", (C, c, 3, 3))
        matrix("encoder.out", f"encoder.{5 + L}", 2, C)
        matrix("decoder.in", "decoder.0", C, 1)
        taps("decoder.conv", f"decoder.{2 + L}", (c, C, 3, 3))
        taps("decoder.out", f"decoder.{4 + L}", (1, c, 5, 5))
        for half, first in (("encoder", 5), ("decoder", 1)):
            for i in range(L):
                ours, theirs = f"{half}.layer.{i}.", f"{half}.{first + i}."
                for end, shape in (("weight", (A, C)), ("bias", (A,))):
                    parts = [Part(f"{theirs}attn.{part}.{end}", shape) for part in QKV]
                    out.append(Wanted(f"{ours}mix.qkv.{end}", (3 * A, *shape[1:]), parts, end == "weight"))
                matrix(ours + "mix.out", theirs + "attn.out_proj", C, A, square=False)
                matrix(ours + "ffn.up", theirs + "conv.network.0", F, C)
                taps(ours + "ffn.space", theirs + "conv.network.2", (F, 1, 3, 3))
                matrix(ours + "ffn.down", theirs + "conv.network.4", C, F)
        return out


def load(path, tensors):
    return Model(path, Vae(path, tensors), tensors=tensors)
