#!/usr/bin/env python3
# SPDX-License-Identifier: CC0-1.0
"""Judges the clips that videogen draws: what share of them shows what the prompt says, by the detector.

    python tools/video/score.py --videogen build/videogen -m MODEL.folio [-- --steps 24 ...]   runs it, one prompt after the other
    python tools/video/score.py --prompts                                                      the prompts, one in a line
    python tools/video/score.py --clips DIR        DIR/0000 .. in the order of the prompts: folders of PNGs, or .rgb or .y4m files

A fifth of the prompts ask for (colour, shape, motion) triples that no training clip had. The last line of the table is the control: the
same clips against each other's prompts, which must be no better than chance.
"""
import argparse
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from video import detector, shapes  # noqa: E402


def scenes(count):
    """The prompts' scenes; every fifth is held out. All different."""
    rng, out = np.random.default_rng(7), []
    while len(out) < count:
        scene = shapes.any_scene(rng)
        if scene.held_out == (len(out) % 5 == 4) and scene not in out:
            out.append(scene)
    return out


# ---- frames

def read_png(path):
    """[H, W, 3] u8 of a PNG of 8-bit RGB or RGBA, not interlaced: what videogen writes."""
    data = path.read_bytes()
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", data[at + 8:at + 21])
            if data[:8] != b"\x89PNG\r\n\x1a\n" or depth != 8 or colour not in (2, 6) or rest[2]:
                raise ValueError(f"{path}: not a PNG of 8-bit RGB")
        packed += data[at + 8:at + 8 + size] if kind == b"IDAT" else b""
        at += 12 + size
    size = 3 if colour == 2 else 4
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * size)
    out = np.zeros((height + 1, width + 1, size), np.int32)  # a row above and a column to the left of zeros
    for y in range(height):
        kind, line, up = lines[y, 0], lines[y, 1:].reshape(width, size).astype(np.int32), out[y]
        if kind in (0, 2):
            out[y + 1, 1:] = line + (up[1:] if kind == 2 else 0) & 255
            continue
        row = out[y + 1]
        for x in range(width):
            a, b, c = row[x], up[x + 1], up[x]
            if kind == 4:
                pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
                guess = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
            else:
                guess = a if kind == 1 else (a + b) // 2
            row[x + 1] = line[x] + guess & 255
    return out[1:, 1:, :3].astype(np.uint8)


def read_y4m(path):
    """[T, H, W, 3] in 0 .. 255 of 8-bit 4:4:4 or 4:2:0, BT.601 in video range."""
    data = path.read_bytes()
    head, _, data = data.partition(b"\n")
    fields = {f[:1]: f[1:] for f in head.decode().split()[1:]}
    width, height, form = int(fields["W"]), int(fields["H"]), fields.get("C", "420")
    if not form.startswith(("444", "420")) or "p1" in form:
        raise ValueError(f"{path}: C{form}; expected 8-bit C444 or C420")
    small = (height, width) if form.startswith("444") else ((height + 1) // 2, (width + 1) // 2)
    frames = []
    while data:
        _, _, data = data.partition(b"\n")
        planes = []
        for h, w in ((height, width), small, small):
            plane = np.frombuffer(data[:h * w], np.uint8).reshape(h, w)
            data = data[h * w:]
            planes.append(plane.repeat(-(-height // h), 0).repeat(-(-width // w), 1)[:height, :width].astype(np.float32))
        y, u, v = (planes[0] - 16) * (255 / 219), (planes[1] - 128) * (255 / 224), (planes[2] - 128) * (255 / 224)
        frames.append(np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], axis=-1))
    return np.clip(frames, 0, 255)


def raw(data):
    return np.frombuffer(data, np.uint8).reshape(-1, shapes.SIDE, shapes.SIDE, 3)


def read_clip(path):
    """[T, H, W, 3] in 0 .. 1"""
    if path.is_dir():
        frames = np.stack([read_png(p) for p in sorted(path.glob("*.png"))])
    else:
        frames = read_y4m(path) if path.suffix == ".y4m" else raw(path.read_bytes())
    return frames / np.float32(255)


def run(command, model, prompt, seed, more):
    """A clip by videogen, raw frames through its standard output."""
    line = [*shlex.split(command), "-m", str(model), "--prompt", prompt, "--seed", str(seed), "-o", "-", "-q", *more]
    done = subprocess.run(line, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(f"score.py: {shlex.join(line)} ended with {done.returncode}")
    return raw(done.stdout) / np.float32(255)


# ---- the table

def report(asked, seen):
    """Markdown lines: shares of right attributes over all prompts, the two kinds of triples, and each against all other prompts."""
    kinds = {"all prompts": range(len(asked)), "triples of the training": [i for i, s in enumerate(asked) if not s.held_out],
             "held-out triples": [i for i, s in enumerate(asked) if s.held_out]}
    rows = {f"{name} ({len(which)})": detector.mean_marks([detector.marks(seen[i], asked[i]) for i in which])
            for name, which in kinds.items() if len(which)}
    others = [detector.marks(s, a) for i, s in enumerate(seen) for j, a in enumerate(asked) if i != j]
    if others:
        rows["control: others' prompts"] = detector.mean_marks(others)
    names = list(next(iter(rows.values())))
    lines = ["| prompts | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {row} | " + " | ".join(f"{100 * marks[n]:.1f}%" for n in names) + " |" for row, marks in rows.items()]
    chance = {"all": 1, **{name: 1 / count for name, count in shapes.ATTRIBUTES.items()}}
    chance["all"] = chance["colour"] * chance["shape"] * chance["motion"]
    return lines + ["| chance | " + " | ".join(f"{100 * chance[n]:.1f}%" for n in names) + " |"]


def main():
    p = argparse.ArgumentParser(description="Judges videogen's clips of shapes; see the head of this file.")
    p.add_argument("--videogen", metavar="COMMAND", help="the program, to be run for every prompt")
    p.add_argument("-m", "--model", help="weights for it")
    p.add_argument("--clips", type=Path, metavar="DIR", help="clips that are there already, named 0000 and so on")
    p.add_argument("--prompts", action="store_true", help="print the prompts")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--least", type=float, default=0, metavar="SHARE", help="exit code 1 if fewer clips show colour, shape and motion")
    p.add_argument("more", nargs="*", help="after --: further arguments of videogen")
    args = p.parse_args()
    asked, seen = scenes(args.count), []
    if args.prompts:
        return print("\n".join(shapes.caption(s) for s in asked))
    if not args.clips and not (args.videogen and args.model):
        p.error("give --videogen and -m, --clips or --prompts")
    found = sorted(args.clips.iterdir()) if args.clips else []
    if args.clips and len(found) != len(asked):
        sys.exit(f"score.py: {args.clips} holds {len(found)} clips, and there are {len(asked)} prompts; --count says how many to take")
    for i, scene in enumerate(asked):
        clip = read_clip(found[i]) if found else run(args.videogen, args.model, shapes.caption(scene), i, args.more)
        seen.append(detector.detect(clip))
        print(f"\r{i + 1} of {len(asked)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print("\n".join(report(asked, seen)))
    right = detector.mean_marks([detector.marks(s, a) for s, a in zip(seen, asked)])["all"]
    if right < args.least:
        sys.exit(f"score.py: {right:.2f} of the clips show what was asked for, expected {args.least:g}")


if __name__ == "__main__":
    main()
