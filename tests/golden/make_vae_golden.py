# SPDX-License-Identifier: MIT
"""Tiny seeded autoencoders of every layout that convert.py knows, and what PyTorch makes of them, in float64: tests/golden/video/*.

    python tests/golden/make_vae_golden.py        needs torch and safetensors

A plain restatement of the layouts by formula, frame by frame: each memory block is given its own last input, nothing is folded. The
weights are exact in float16 and are stored so. Each NAME.safetensors has NAME.npz beside it: enc_in [T, 3, H, W], enc_out [T', z, h, w],
dec_in [T', z, h, w] and dec_out [T, 3, H, W] clamped to [0, 1], trimmed.
"""
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent / "video"
torch.set_default_dtype(torch.float64)


class Net:
    """Tensors by name, made when first asked for; and the layers as functions of one frame [1, C, H, W]."""

    def __init__(self, seed):
        self.random, self.tensors, self.past = torch.Generator().manual_seed(seed), {}, {}

    def weight(self, name, *shape, scale=1.0):
        if name not in self.tensors:
            fan = max(1, int(np.prod(shape[1:])))
            self.tensors[name] = (torch.randn(shape, generator=self.random) * scale * fan**-0.5).half().double()
        return self.tensors[name]

    def conv(self, x, name, out, size=3, bias=True, stride=1, groups=1, scale=1.2):
        w = self.weight(name + ".weight", out, x.shape[1] // groups, size, size, scale=scale)
        b = self.weight(name + ".bias", out, scale=0.1) if bias else None
        return F.conv2d(x, w, b, stride, size // 2, 1, groups)

    def before(self, x, name):
        past = self.past.get(name, torch.zeros_like(x))
        self.past[name] = x
        return past

    def memory(self, x, name):
        c = x.shape[1]
        h = F.relu(self.conv(torch.cat([x, self.before(x, name)], 1), name + ".conv.0", c))
        return F.relu(self.conv(F.relu(self.conv(h, name + ".conv.2", c)), name + ".conv.4", c, scale=0.5) + x)

    def wide_memory(self, x, name):
        c = x.shape[1]
        h = self.conv(torch.cat([x, self.before(x, name)], 1), name + ".conv.0", 2 * c, 7, False, groups=2 * c)
        h = F.relu(self.conv(h, name + ".conv.1", 4 * c, 1))
        return x + self.conv(h, name + ".conv.3", c, 1, False, scale=0.5)

    def block(self, x, name, norm=False):
        c = x.shape[1]
        if norm:
            h = self.conv(x, name + ".pool.0", 4 * c, 1, False)
            scale = self.weight(name + ".pool.1.weight", 4 * c)
            h = F.group_norm(h, 4, scale, self.weight(name + ".pool.1.bias", 4 * c, scale=0.1))
            x = x + self.conv(F.relu(h), name + ".pool.3", c, 1, False, scale=0.5)
        h = F.relu(self.conv(F.relu(self.conv(x, name + ".conv.0", c)), name + ".conv.2", c))
        return F.relu(self.conv(h, name + ".conv.4", c, scale=0.5) + x)

    def grow(self, frames, name, c, s):
        return [part for x in frames for part in self.conv(x, name + ".conv", s * c, 1, False).split(c, 1)]

    def pool(self, frames, name, c, s):
        return [self.conv(torch.cat(frames[i:i + s], 1), name + ".conv", c, 1, False) for i in range(0, len(frames), s)]


def each(frames, layer, *args, **more):
    return [layer(x, *args, **more) for x in frames]


def up(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def taehv_encode(net, frames, n, z, p, times):
    x = each(frames, lambda f: F.relu(net.conv(F.pixel_unshuffle(f, p), "encoder.0", n)))
    for at, s in zip((2, 7, 12), times):
        x = each(net.pool(x, f"encoder.{at}", n, s), net.conv, f"encoder.{at + 1}", n, bias=False, stride=2)
        for i in range(at + 2, at + 5):
            x = each(x, net.memory, f"encoder.{i}")
    return each(x, net.conv, "encoder.17", z)


def taehv_decode(net, latents, widths, p, times):
    x = each(latents, lambda z: F.relu(net.conv(3 * torch.tanh(z / 3), "decoder.1", widths[0])))
    for at, c, after, s in zip((3, 9, 15), widths, widths[1:], times):
        for i in range(at, at + 3):
            x = each(x, net.memory, f"decoder.{i}")
        x = each(net.grow(each(x, up), f"decoder.{at + 4}", c, s), net.conv, f"decoder.{at + 5}", after, bias=False)
    return each(x, lambda f: F.pixel_shuffle(net.conv(F.relu(f), "decoder.22", 3 * p * p, scale=0.5), p))


def super_decode(net, latents, widths, p, times):
    x = each(latents, net.conv, "decoder.0", widths[0], 1, False)
    for at, c, after, s in zip((1, 8, 15), widths, widths[1:], times):
        for i in range(at, at + 3):
            x = each(x, net.wide_memory, f"decoder.{i}")
        x = each(x, lambda f: F.pixel_shuffle(F.relu(net.conv(f, f"decoder.{at + 3}", 4 * after)), 2))
        x = net.grow(x, f"decoder.{at + 6}", after, s)
    return each(x, lambda f: F.pixel_shuffle(net.conv(f, "decoder.22", 3 * p * p, scale=0.5), p))


def taesd_encode(net, frames, n, z, norm):
    def one(x):
        x, at = net.block(net.conv(x, "encoder.0", n), "encoder.1"), 2
        for level in range(3):
            x = net.conv(x, f"encoder.{at}", n, bias=False, stride=2)
            for i in range(at + 1, at + 4):
                x = net.block(x, f"encoder.{i}", norm and level == 2)
            at += 4
        return net.conv(x, "encoder.14", z)
    return each(frames, one)


def taesd_decode(net, latents, n, norm):
    def one(z):
        x, at = F.relu(net.conv(3 * torch.tanh(z / 3), "decoder.1", n)), 3
        for level in range(3):
            for i in range(at, at + 3):
                x = net.block(x, f"decoder.{i}", norm and level == 0)
            x = net.conv(up(x), f"decoder.{at + 4}", n, bias=False)
            at += 5
        return net.conv(net.block(x, "decoder.18"), "decoder.19", 3, scale=0.5)
    return each(latents, one)


def deep_encode(net, frames, n, z):
    def one(x):
        x = F.relu(net.conv(F.relu(net.conv(x, "encoder.0", n // 2, stride=2)), "encoder.2", n, stride=2))
        x, at = net.block(x, "encoder.4"), 5
        for _ in range(3):
            x = net.conv(x, f"encoder.{at}", n, bias=False, stride=2)
            for i in range(at + 1, at + 4):
                x = net.block(x, f"encoder.{i}")
            at += 4
        return net.conv(x, "encoder.17", z)
    return each(frames, one)


def deep_decode(net, latents, widths):
    def one(z):
        x, at = F.relu(net.conv(3 * torch.tanh(z / 3), "decoder.1", widths[0])), 3
        for after in widths[1:]:
            for i in range(at, at + 3):
                x = net.block(x, f"decoder.{i}")
            x = net.conv(up(x), f"decoder.{at + 4}", after, bias=False)
            at += 5
        return net.conv(net.block(x, f"decoder.{at}"), f"decoder.{at + 1}", 3, scale=0.5)
    return each(latents, one)


def write(name, seed, frames, spatial, time, z, encode, decode, h=3, w=2):
    net = Net(seed)
    video = torch.rand(frames, 3, h * spatial, w * spatial, generator=net.random).float().double()
    filled = [video[min(t, frames - 1)][None] for t in range(-(-frames // time) * time)]
    latents = encode(net, filled)
    net.past = {}
    given = torch.randn(len(latents), z, h, w, generator=net.random).float().double()
    out = decode(net, [x[None] for x in given])[time - 1:]
    tensors = {key: t.half().numpy() for key, t in net.tensors.items()}
    HERE.mkdir(exist_ok=True)
    save_file(tensors, HERE / f"{name}.safetensors")
    arrays = {"enc_in": video, "enc_out": torch.cat(latents), "dec_in": given, "dec_out": torch.cat(out).clamp(0, 1)}
    np.savez(HERE / f"{name}.npz", **{key: x.float().numpy() for key, x in arrays.items()})


def main():
    torch.manual_seed(0)
    widths = (16, 12, 8, 8)
    write("taew2_2", 1, 6, 16, 4, 6, lambda n, x: taehv_encode(n, x, 8, 6, 2, (2, 2, 1)), lambda n, z: taehv_decode(n, z, widths, 2, (1, 2, 2)))
    write("taeltx", 2, 9, 32, 8, 8, lambda n, x: taehv_encode(n, x, 8, 8, 4, (2, 2, 2)), lambda n, z: taehv_decode(n, z, widths, 4, (2, 2, 2)), 2, 1)
    write("super", 3, 9, 16, 4, 6, lambda n, x: taehv_encode(n, x, 8, 6, 2, (2, 2, 1)),
          lambda n, z: super_decode(n, z, (16, 12, 8, 8), 2, (1, 2, 2)))
    write("taesd", 4, 2, 8, 1, 4, lambda n, x: taesd_encode(n, x, 8, 4, False), lambda n, z: taesd_decode(n, z, 8, False))
    write("taef2", 5, 1, 8, 1, 4, lambda n, x: taesd_encode(n, x, 8, 4, True), lambda n, z: taesd_decode(n, z, 8, True))
    write("deep", 6, 1, 32, 1, 4, lambda n, x: deep_encode(n, x, 8, 4), lambda n, z: deep_decode(n, z, (12, 8, 8, 8, 8, 8)), 2, 1)


if __name__ == "__main__":
    main()
