# SPDX-License-Identifier: MIT
"""Thin video and image autoencoders: TAEHV and its kin, TAESD and its kin, and decoders of plain 3-D convolutions. models/thin_vae.h
describes what comes out.

What a checkpoint is follows from the names and shapes of its tensors: no configuration stands beside it. Each half is a list of layers,
one to a position of the sequence of modules that it was trained as (arXiv has none of them; the layouts are those of the repositories
madebyollin/taehv and madebyollin/taesd), and the tensors keep the names that they have there. Convolutions are laid out anew, with taps
outermost and output channels innermost.

Two files, or a folder that holds two, are an encoder and a decoder; diffusers' names ("decoder.layers.0") are understood as well.
"""
import os
import re
from dataclasses import dataclass, field

import numpy as np

from . import ConvertError, quant, safetensors_file
from .assemble import Model
from .decoder import Part, Wanted
from .stored import Stored, map_file

HALVES = ("encoder", "decoder")
BLOCK = ("conv.0", "conv.2", "conv.4")  # of TAESD and of a memory block


class Taps(Stored):
    """A convolution's weights as we store them: of the file's [out, in, height, width], or [out, in, time, height, width], a table of
    (first input channel, inputs) pairs, one to a tap in time, oldest first; its other dimensions become [time·height·width, in, out].
    Of a depthwise one, whose `in` is 1, the pairs are of channels, and what comes out is [time·height·width, channels]. Of one that makes
    several frames, `frames` of them are stacked in `out`, and the result's phases stand where its taps in time would."""

    def __init__(self, of, inputs=None, depthwise=False, frames=1):
        plain = quant.block_of(of.format)[0] == 1
        kind = of.format if plain else "f32"
        data = of.data if plain else of.floats(0, of.rows).view(np.uint8).reshape(-1)
        size = quant.FORMATS[kind][1]
        w = np.ascontiguousarray(data).view(f"V{size}").reshape(of.shape)
        out, count, *size = of.shape
        taps = int(np.prod(size))
        if depthwise:
            pieces = [w[first:first + n, 0].reshape(n, taps).T for first, n in inputs]
        elif frames > 1:
            pieces = [part.reshape(out // frames, count, taps).transpose(2, 1, 0) for part in np.split(w, frames)]
        else:
            pieces = [w[:, first:first + n].reshape(out, n, taps).transpose(2, 1, 0) for first, n in inputs or [(0, count)]]
        joined = np.ascontiguousarray(np.concatenate(pieces))
        super().__init__(kind, joined.shape, joined.view(np.uint8).reshape(-1), of.name)


@dataclass
class Net:
    """One half: its layers in order, and what it reads. `layers` holds the words of models/vae_net.h."""
    layers: list = field(default_factory=list)
    tensors: list = field(default_factory=list)   # (name without the half, shape in the source, how it is laid out)

    def layer(self, kind):
        self.layers.append(kind)
        return len(self.layers) - 1

    def conv(self, name, out, inside, size=3, bias=True, **taps):
        self.tensors.append((f"{name}.weight", (out, inside, size, size), taps))
        if bias:
            self.tensors.append((f"{name}.bias", (out,), None))

    def plain(self, out, inside, size=3, bias=True, kind="conv"):
        self.conv(self.layer(kind), out, inside, size, bias)

    def memory(self, c):
        at = self.layer("memory")
        self.conv(f"{at}.conv.0", c, 2 * c, inputs=[(c, c), (0, c)])
        self.conv(f"{at}.conv.2", c, c)
        self.conv(f"{at}.conv.4", c, c)

    def wide_memory(self, c):
        at = self.layer("wide_memory")
        self.conv(f"{at}.conv.0", 2 * c, 1, 7, False, inputs=[(c, c), (0, c)], depthwise=True)
        self.conv(f"{at}.conv.1", 4 * c, 2 * c, 1, inputs=[(c, c), (0, c)])
        self.conv(f"{at}.conv.3", c, 4 * c, 1, False)

    def block(self, c, norm=False):
        at = self.layer("block_norm" if norm else "block")
        if norm:
            self.conv(f"{at}.pool.0", 4 * c, c, 1, False)
            self.tensors += [(f"{at}.pool.1.{part}", (4 * c,), None) for part in ("weight", "bias")]
            self.conv(f"{at}.pool.3", c, 4 * c, 1, False)
        for part in BLOCK:
            self.conv(f"{at}.{part}", c, c)

    def pool(self, c, s):
        self.conv(f"{self.layer('pool')}.conv", c, s * c, 1, False, inputs=[(j * c, c) for j in range(s)])

    def grow(self, c, s):
        self.conv(f"{self.layer('grow')}.conv", s * c, c, 1, False, frames=s)


class Source:
    """The tensors of both halves under the names "encoder.N..." and "decoder.N...", and questions about them."""

    def __init__(self, path, tensors):
        self.path, self.tensors = path, tensors

    def has(self, half):
        return any(name.startswith(half + ".") for name in self.tensors)

    def shape(self, name, rank=4):
        stored = self.tensors.get(name)
        if stored is None:
            raise ConvertError(f"'{self.path}' has no tensor '{name}', by which this kind of autoencoder is told")
        if len(stored.shape) != rank:
            raise ConvertError(f"'{self.path}': tensor '{name}' is {list(stored.shape)}, expected {rank} dimensions")
        return stored.shape

    def times(self, name, unit):
        """How often the rows (grow) or columns (pool) of a 1x1 convolution hold `unit` channels."""
        n = self.shape(name)[0 if name.startswith("decoder") else 1]
        if n % unit or not 1 <= n // unit <= 8:
            raise ConvertError(f"'{self.path}': tensor '{name}' is {list(self.shape(name))}, expected {unit} channels a frame of at most 8")
        return n // unit


def patch_of(source, name, channels):
    for p in (1, 2, 4, 8):
        if 3 * p * p == channels:
            return p
    raise ConvertError(f"'{source.path}': tensor '{name}' has {channels} channels of pixels, expected 3, 12, 48 or 192")


def taehv_encoder(source):
    net, name = Net(), "encoder.0.weight"
    n, pixels = source.shape(name)[:2]
    net.plain(n, pixels)
    net.layer("relu")
    factors = []
    for at in (2, 7, 12):
        factors.append(source.times(f"encoder.{at}.conv.weight", n))
        net.pool(n, factors[-1])
        net.plain(n, n, bias=False, kind="down")
        for _ in range(3):
            net.memory(n)
    z = source.shape("encoder.17.weight")[0]
    net.plain(z, n)
    return net, z, patch_of(source, name, pixels), factors


def taehv_decoder(source):
    net = Net()
    widths = [source.shape(f"decoder.{at}.weight")[0] for at in (1, 8, 14, 20)]
    z, pixels = source.shape("decoder.1.weight")[1], source.shape("decoder.22.weight")[0]
    net.layer("clamp")
    net.plain(widths[0], z)
    net.layer("relu")
    factors = []
    for at, c, after in zip((7, 13, 19), widths, widths[1:]):
        for _ in range(3):
            net.memory(c)
        net.layer("up")
        factors.append(source.times(f"decoder.{at}.conv.weight", c))
        net.grow(c, factors[-1])
        net.plain(after, c, bias=False)
    net.layer("relu")
    net.plain(pixels, widths[3])
    return net, z, patch_of(source, "decoder.22.weight", pixels), factors


def wide_decoder(source):
    """The decoder of *_super: depthwise 7x7 memory blocks, enlarged by pixel shuffle."""
    net = Net()
    first, z = source.shape("decoder.0.weight")[:2]
    net.plain(first, z, 1, bias=False)
    widths, factors = [first], []
    for at in (4, 11, 18):
        widths.append(source.shape(f"decoder.{at}.weight")[0] // 4)
    for at, c, after in zip((7, 14, 21), widths, widths[1:]):
        for _ in range(3):
            net.wide_memory(c)
        net.plain(4 * after, c)
        net.layer("relu")
        net.layer("shuffle")
        factors.append(source.times(f"decoder.{at}.conv.weight", after))
        net.grow(after, factors[-1])
    pixels = source.shape("decoder.22.weight")[0]
    net.plain(pixels, widths[3])
    return net, z, patch_of(source, "decoder.22.weight", pixels), factors


def taesd_encoder(source):
    net, n = Net(), source.shape("encoder.0.weight")[0]
    norm = "encoder.11.pool.0.weight" in source.tensors
    net.plain(n, 3)
    net.block(n)
    for last in (False, False, True):
        net.plain(n, n, bias=False, kind="down")
        for _ in range(3):
            net.block(n, norm and last)
    z = source.shape("encoder.14.weight")[0]
    net.plain(z, n)
    return net, z, 1, []


def taesd_decoder(source):
    net = Net()
    n, z = source.shape("decoder.1.weight")[:2]
    net.layer("clamp")
    net.plain(n, z)
    net.layer("relu")
    for first in (True, False, False):
        for _ in range(3):
            net.block(n, first and "decoder.3.pool.0.weight" in source.tensors)
        net.layer("up")
        net.plain(n, n, bias=False)
    net.block(n)
    net.plain(3, n)
    return net, z, 1, []


def deep_encoder(source):
    """TAESD's form for a 32-fold smaller image (Sana)."""
    net = Net()
    half, n = source.shape("encoder.0.weight")[0], source.shape("encoder.2.weight")[0]
    net.plain(half, 3, kind="down")
    net.layer("relu")
    net.plain(n, half, kind="down")
    net.layer("relu")
    net.block(n)
    for _ in range(3):
        net.plain(n, n, bias=False, kind="down")
        for _ in range(3):
            net.block(n)
    z = source.shape("encoder.17.weight")[0]
    net.plain(z, n)
    return net, z, 1, []


def deep_decoder(source):
    net = Net()
    first, z = source.shape("decoder.1.weight")[:2]
    widths = [first] + [source.shape(f"decoder.{at}.weight")[0] for at in (7, 12, 17, 22, 27)]
    net.layer("clamp")
    net.plain(first, z)
    net.layer("relu")
    for c, after in zip(widths, widths[1:]):
        for _ in range(3):
            net.block(c)
        net.layer("up")
        net.plain(after, c, bias=False)
    net.block(widths[-1])
    net.plain(3, widths[-1])
    return net, z, 1, []


def volume_decoder(source):
    """3-D convolutions of 3x3x3 one behind the other, a relu where a place of the sequence has no tensors: the seeds' decoders, 32 channels
    to 8 (thin) or 32 (naive) to 3."""
    net, z = Net(), source.shape("decoder.0.weight", 5)[1]
    places = [int(found[1]) for name in source.tensors if (found := re.match(r"decoder\.(\d+)\.weight$", name))]
    channels = z
    for at in range(max(places) + 1):
        if at in places:
            n = source.shape(f"decoder.{at}.weight", 5)[0]
            net.tensors += [(f"{at}.weight", (n, channels, 3, 3, 3), {}), (f"{at}.bias", (n,), None)]
            channels = n
        elif at - 1 not in places:
            raise ConvertError(f"'{source.path}': between its convolutions of three dimensions are {at - 1} and {at}, "
                               "expected a relu alone")
        net.layer("volume" if at in places else "relu")
    if channels != 3:
        raise ConvertError(f"'{source.path}': its last convolution has {channels} channels, expected the 3 of a picture")
    return net, z, 1, []


def family(tensors):
    """"taehv", "taesd", "thin" or "" of tensors under the names of this module."""
    has = tensors.__contains__
    if has("decoder.7.conv.weight") or has("encoder.2.conv.weight"):
        return "taehv"
    if has("encoder.1.conv.0.weight") or has("encoder.4.conv.0.weight") or has("decoder.3.conv.0.weight"):
        return "taesd"
    first = tensors.get("decoder.0.weight")
    return "thin" if first is not None and len(first.shape) == 5 else ""


def _read_half(source, half):
    has = source.tensors.__contains__
    if family(source.tensors) == "taehv":
        if has(f"{half}.3.conv.6.weight") or has(f"{half}.4.conv.6.weight"):
            raise ConvertError(f"'{source.path}' is a wide TAEHV (taeltx2_3_wide): its grouped convolutions are not supported")
        if half == "encoder":
            return taehv_encoder(source)
        return wide_decoder(source) if has("decoder.1.conv.3.weight") else taehv_decoder(source)
    if family(source.tensors) == "thin":
        if half == "encoder":
            raise ConvertError(f"'{source.path}' has an encoder beside a decoder of 3-D convolutions: only that decoder is supported")
        return volume_decoder(source)
    deep = has(f"{half}.17.weight") if half == "encoder" else has("decoder.22.weight")
    return {"encoder": (taesd_encoder, deep_encoder), "decoder": (taesd_decoder, deep_decoder)}[half][deep](source)


# Files of equal shapes whose frames are counted differently: told by their names, or by --vae.
RULES = ("plain", "cogvideox", "front")


@dataclass
class Vae:
    """What assemble.py asks of the thing that a file holds."""
    kind: str
    nets: dict
    latent: int
    patch: int
    time: list          # of the decoder's three levels, or of the encoder's in reverse
    rule: str = "plain"
    name: str = ""
    text = False        # wants no tokenizer

    def check(self):
        return self

    def metadata(self):
        layers = next(iter(self.nets.values())).layers
        halvings = sum(kind in ("down", "up", "shuffle") for kind in layers)
        meta = {"arch": self.kind, "name": self.name, "vae.latent": self.latent, "vae.patch": self.patch, "vae.time": list(self.time),
                "vae.spatial": self.patch * 2**halvings, "vae.pad": "front" if self.rule == "front" else "tail"}
        if self.rule == "cogvideox":
            meta["vae.trim"] = "odd"
        return meta | {"vae." + half: list(net.layers) for half, net in self.nets.items()}

    def wanted(self):
        out = []
        for half, net in self.nets.items():
            for name, shape, taps in net.tensors:
                full = f"{half}.{name}"
                lay = None if taps is None else lambda stored, taps=taps: Taps(stored, **taps)
                out.append(Wanted(full, shape, [Part(full, shape)], taps is not None, lay=lay))
        return out


def describe(path, tensors, rule=None, name=""):
    """The Vae of tensors under the names "encoder.N..." and "decoder.N...". Either half may be absent."""
    source = Source(path, tensors)
    found = {half: _read_half(source, half) for half in HALVES if source.has(half)}
    (_, z, patch, factors) = found.get("decoder") or found["encoder"]
    if len(found) == 2:
        _, other, p, back = found["encoder"]
        if (other, p) != (z, patch) or np.prod(back or [1]) != np.prod(factors or [1]):
            raise ConvertError(f"'{path}': the encoder makes {other} channels of patches of {p} and {int(np.prod(back or [1]))} frames, "
                               f"the decoder takes {z}, {patch} and {int(np.prod(factors or [1]))}: they are not of one autoencoder")
    kind = family(tensors)
    if kind == "taehv" and z == 24:
        raise ConvertError(f"'{path}' has 24 latent channels, as taeh3 has, whose clips are coded in pieces of 17 frames: not supported")
    if rule is None:
        rule = "cogvideox" if "taecvx" in name.lower() else "plain"
    order = factors if "decoder" in found else factors[::-1]
    return Vae(kind, {half: net for half, (net, *_) in found.items()}, z, patch, [int(s) for s in order], rule, name)


# ---- sources ----------------------------------------------------------------------------------------------------------

def canonical(tensors, half=None):
    """The tensors under our names, without those of other things; `half` if the file's names do not say. None if it holds no such thing."""
    out = {}
    for name, stored in tensors.items():
        plain = re.sub(r"^(module|model|vae|taesd|taehv|first_stage_model)\.", "", name)
        found = re.match(r"(encoder|decoder)\.(layers\.)?(\d+)\.(.+)$", plain)
        if found:
            part, layers, at, rest = found.groups()
            # diffusers does not count the decoder's first layer, which has no tensors
            out[f"{part}.{int(at) + (bool(layers) and part == 'decoder')}.{rest}"] = stored
        elif re.match(r"\d+\.", plain) and half:
            out[f"{half}.{plain}"] = stored
        elif plain not in ("mean", "std"):
            return None
    return out or None


def half_of(tensors):
    """Which half a file without a prefix is: an encoder begins with pixels."""
    first = tensors.get("0.weight")
    if first is not None and len(first.shape) == 4 and first.shape[1] in (3, 12, 48) and "1.weight" not in tensors:
        return "encoder"
    return "decoder" if "1.weight" in tensors or "0.weight" in tensors else None


def known(tensors):
    """Tensors under our names if they are those of an autoencoder of this module, else None."""
    named = canonical(tensors, half_of(tensors))
    return named if named and family(named) else None


def read(path):
    """name -> Stored of one file."""
    if path.endswith((".pt", ".pth")):
        from . import from_torch
        return from_torch.tensors(path)
    return safetensors_file.read(path, lambda name: False)


def files_of(folder):
    """The one or two files of a folder that may be an autoencoder's; none if it holds anything else."""
    names = sorted(name for name in os.listdir(folder) if name.endswith((".safetensors", ".pth", ".pt")))
    stems = {os.path.splitext(name)[0] for name in names}
    chosen = [next(name for end in (".safetensors", ".pth", ".pt") if (name := stem + end) in names) for stem in sorted(stems)]
    halves = [name for name in chosen if "encoder" in name or "decoder" in name]
    if len(halves) == 2:
        return [os.path.join(folder, name) for name in halves]
    return [os.path.join(folder, chosen[0])] if len(chosen) == 1 else []


def load(paths, rule=None, name=""):
    """The Model of one file that holds both halves or one, or of two files."""
    path, tensors, notes = paths[0], {}, []
    for each in paths:
        found = known(read(each))
        if not found:
            raise ConvertError(f"'{each}' holds no autoencoder that is known: TAEHV, TAEW, TAESD, TAEF2 or 3-D convolutions")
        double = next((n for n in found if n in tensors), None)
        if double:
            raise ConvertError(f"'{each}' holds '{double}', and so does '{path}'; expected an encoder and a decoder")
        tensors |= found
    if rule is None and said(path).get("pad") == "front":
        rule = "front"
    vae = describe(path, tensors, rule, name)
    for half in HALVES:
        if half not in vae.nets:
            notes.append(f"there is no {half}")
    if vae.rule != "plain":
        notes.append(f"frames are counted as by --vae {vae.rule}")
    return Model(path, vae, tensors=tensors, notes=notes)


def said(path):
    """What the header of a safetensors file says beside its tensors."""
    return safetensors_file.metadata(path) if path.endswith(".safetensors") and len(map_file(path)) > 8 else {}
