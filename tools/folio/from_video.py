# SPDX-License-Identifier: MIT
"""The prototype of the video model: a flow model ("dit.") and its autoencoder ("vae.") in one safetensors file, whose header says the rest.

models/video_dit.h describes what comes out, tools/train_video.py writes the same without a detour. Tensors are stacked and laid out anew;
what the prototype computes from a tensor in every step (Mesa's ridge) is computed once, here.
"""
import json
import re

import numpy as np

from . import ConvertError, safetensors_file
from .assemble import Model
from .decoder import Part, Wanted

KINDS = {"lla": "log_linear", "mesa": "mesa"}
SCANS = {"fwd": 0, "rev": 1}


def is_video(path):
    """Whether a safetensors file is such a one."""
    return "dit.inp.weight" in safetensors_file.read(path, lambda name: False)


class _Header:
    """The texts of the file's header, as what they stand for."""

    def __init__(self, path):
        self.path, self.texts = path, safetensors_file.metadata(path)

    def get(self, key, read, expected):
        try:
            return read(self.texts[key])
        except (KeyError, ValueError, TypeError):
            raise ConvertError(f"'{self.path}': its header's '{key}' is {self.texts.get(key)!r}, expected {expected}") from None

    def number(self, key):
        n = self.get(key, int, "an integer")
        if not 0 < n < 2**20:
            raise ConvertError(f"'{self.path}': its header's '{key}' is {n}, expected a positive integer")
        return n

    def cycle(self, key, table, n):
        """n words of a list that begins anew at its end."""
        words = self.get(key, lambda text: [table[word] for word in text.split(",")], ", ".join(table))
        return [words[i % len(words)] for i in range(n)]


class Video:
    """What assemble.py asks of the thing that a file holds."""
    text = False   # wants no tokenizer
    name = ""

    def __init__(self, path, tensors, vae=None):
        header, self.path, self.vae = _Header(path), path, vae
        self.dim, self.layers, self.heads = (header.number(key) for key in "dnh")
        self.patch, self.latent, self.length, self.rounds = (header.number(key) for key in ("patch", "z", "text_len", "cg"))
        self.grid = header.get("grid", lambda text: [int(n) for n in text.split(",")], "three integers")
        self.words = header.get("vocab", json.loads, "a list of words")
        if len(self.grid) != 3 or min(self.grid) < 1:
            raise ConvertError(f"'{path}': its header's 'grid' is {self.grid}, expected three positive integers")
        if not isinstance(self.words, list) or not all(isinstance(word, str) for word in self.words):
            raise ConvertError(f"'{path}': its header's 'vocab' is no list of words")
        self.mixers, self.reverse = header.cycle("order", KINDS, self.layers), header.cycle("dir", SCANS, self.layers)
        shape = lambda name: tensors[name].shape if name in tensors else (1, 1)
        self.ffn, self.caption = max(1, shape("dit.ff.0.a.weight")[0] // 2), shape("dit.ctok.weight")[-1]
        self.levels = max([1] + [stored.shape[0] // self.heads for name, stored in tensors.items() if name.endswith(".lam.weight")])

    def check(self):
        if self.dim % self.heads:
            raise ConvertError(f"'{self.path}': {self.heads} heads cannot share {self.dim} channels")
        return self

    def metadata(self):
        meta = self.vae.metadata() if self.vae else {"vae.latent": self.latent}
        time, spatial = int(np.prod(meta.get("vae.time", [1, 2, 2]))), meta.get("vae.spatial", 8)
        frames, rows, cols = self.grid
        return meta | {
            "arch": "video_dit", "name": self.name, "video.frames": (frames - 1) * time + 1, "video.height": rows * self.patch * spatial,
            "video.width": cols * self.patch * spatial, "video.fps": 8, "video.grid": self.grid, "video.patch": self.patch,
            "video.dim": self.dim, "video.layers": self.layers, "video.heads": self.heads, "video.ffn": self.ffn, "video.text": self.length,
            "video.caption": self.caption, "video.levels": self.levels, "video.words": self.words, "video.mixers": self.mixers,
            "video.reverse": self.reverse, "video.rounds": self.rounds, "video.steps": 24, "video.cfg": 3.0, "video.shift": 1.0}

    def wanted(self):
        C, N, L, V = self.dim, int(np.prod(self.grid)), self.length, len(self.words)
        c = self.latent * self.patch**2
        out = self.vae.wanted() if self.vae else []

        def vector(ours, theirs, *shape):
            out.append(Wanted(ours, shape, [Part(theirs, shape)], False))

        def linear(ours, theirs, rows, columns):
            out.append(Wanted(f"flow.{ours}.weight", (rows, columns), [Part(f"dit.{theirs}.weight", (rows, columns))]))
            vector(f"flow.{ours}.bias", f"dit.{theirs}.bias", rows)

        vector("flow.mean", "vae.mean", self.latent)
        vector("flow.std", "vae.std", self.latent)
        out.append(Wanted("flow.embed.weight", (V, C), [Part("dit.tok.weight", (V, C))]))
        vector("flow.text.position", "dit.tpos", L, C)
        linear("in", "inp", C, c)
        vector("flow.video.position", "dit.vpos", N, C)
        linear("time.0", "tm.0", C, 128)
        linear("time.2", "tm.2", C, C)
        out.append(Wanted("flow.caption.embed.weight", (V, self.caption), [Part("dit.ctok.weight", (V, self.caption))]))
        linear("caption.0", "cm.0", C, self.caption * L)
        linear("caption.2", "cm.2", C, C)
        linear("modulate", "ada", 6 * C, C)
        vector("flow.modulate.table", "dit.adab", self.layers, 6 * C)
        linear("modulate.out", "fin", 2 * C, C)
        linear("out", "out", c, C)
        for i, kind in enumerate(self.mixers):
            out += self.mixer(i, kind) + self.feed(i)
        return out

    def mixer(self, i, kind):
        ours, theirs, C, H = f"flow.layer.{i}.mix.", f"dit.mx.{i}.", self.dim, self.heads
        D, levels = C // H, H * self.levels if kind == "log_linear" else 0
        gates = [("ab", 2 * H)] + ([("lam", levels)] if levels else [])
        out = [Wanted(ours + "in.weight", (4 * C, C), [Part(theirs + "qkv.weight", (3 * C, C)), Part(theirs + "g.weight", (C, C))]),
               Wanted(ours + "gates.weight", (2 * H + levels, C), [Part(f"{theirs}{name}.weight", (n, C)) for name, n in gates]),
               Wanted(ours + "gates.bias", (2 * H + levels,), [Part(f"{theirs}{name}.bias", (n,)) for name, n in gates], False)]
        if kind == "mesa":
            ridge = lambda x: np.logaddexp(x.astype(np.float64), 0) + 0.25
            out.append(Wanted(ours + "ridge", (H, D), [Part(theirs + "Lam", (H, D))], False, ridge))
        return out + [Wanted(ours + "norm.weight", (D,), [Part(theirs + "nw", (D,))], False),
                      Wanted(ours + "out.weight", (C, C), [Part(theirs + "o.weight", (C, C))])]

    def feed(self, i):
        ours, theirs, C, F = f"flow.layer.{i}.ffn.", f"dit.ff.{i}.", self.dim, self.ffn
        out = []
        for name, part, shape in (("up", "a", (2 * F, C)), ("space", "dw", (2 * F, 1, 3, 3)), ("time", "tw", (2 * F, 1, 3)),
                                  ("down", "b", (C, F))):
            weight = Part(f"{theirs}{part}.weight", shape)
            if len(shape) == 2:
                out.append(Wanted(f"{ours}{name}.weight", shape, [weight]))
            else:   # taps outermost
                taps = int(np.prod(shape[1:]))
                out.append(Wanted(f"{ours}{name}.weight", (taps, 2 * F), [weight], False, lambda x: x.reshape(len(x), -1).T))
            out.append(Wanted(f"{ours}{name}.bias", shape[:1], [Part(f"{theirs}{part}.bias", shape[:1])], False))
        return out


def load(path, name=""):
    """The Model of such a file, of its autoencoder too if it has one."""
    tensors = safetensors_file.read(path, lambda name: False)
    own = {n.removeprefix("vae."): stored for n, stored in tensors.items() if re.match(r"vae\.(en|de)coder\.", n)}
    vae = None
    if own:
        from . import from_vae
        vae = from_vae.describe(path, own, "front", name)
    return Model(path, Video(path, tensors, vae), tensors=own | {n: s for n, s in tensors.items() if n.removeprefix("vae.") not in own})
