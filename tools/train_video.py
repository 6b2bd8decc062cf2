#!/usr/bin/env python3
# SPDX-License-Identifier: CC0-1.0
"""Trains Folio's small video model: a thin VAE and the flow model vg-s, on captioned shapes that it draws itself.

    python tools/train_video.py all --out DIR        vae, latents, flow, export: each goes on where it stopped

Needs torch >= 2.4 and what tools/requirements.txt lists. On two CPU cores it takes hours; a GPU is used when there is one.

One file holds both. Metadata of DIR/NAME.folio:
    arch "video_dit" · name · vae.*: as the converter writes for TAEHV's layout, with vae.pad "front": three copies of frame 0 stand
    before it, so that latent t covers frames 4t-3 .. 4t · video.grid [5, 4, 4] (time, rows, columns of tokens)
    video.frames 17 · video.height 64 · video.width 64 · video.fps 8 · video.patch 2 · video.dim d · video.layers n · video.heads H
    video.ffn m · video.text L (words of a caption, 12) · video.caption 32 (width of a word in the caption's summary)
    video.words (texts: word i has index i; 0 fills up, 1 is "no caption")
    video.mixers (n texts, "log_linear" or "mesa")
    video.reverse (n integers: 1 scans the video tokens backwards) · video.levels 8
    video.steps, video.cfg, video.shift: what to sample with
VAE: encoder.I.*, decoder.I.* in TAEHV's layout (models/thin_vae.h).

Flow model v(x, t, words). D = d/H = 32; N = 80 video tokens, T = L + N; C = z·patch² = 64. Linear layers are [out, in].
    flow.mean, flow.std [z]             x = (latent - mean) / std, per channel; the model lives in x
    flow.embed.weight [V, d]            words;  flow.text.position [L, d]
    flow.in.weight [d, C] (+ .bias)     a patch's channels: c·4 + 2·row + column (PyTorch's pixel_unshuffle);  flow.video.position [N, d]
    flow.time.0.weight [d, 128], flow.time.2.weight [d, d] (+ .bias)                         SiLU between
    flow.caption.embed.weight [V, 32], flow.caption.0.weight [d, 32·L], flow.caption.2.weight [d, d] (+ .bias)
    flow.modulate.weight [6d, d] (+ .bias), flow.modulate.table [n, 6d], flow.modulate.out.weight [2d, d] (+ .bias)
    flow.out.weight [C, d] (+ .bias)
    f_j = 10000^(-j/64), e = [cos(1000·t·f_0..63), sin(1000·t·f_0..63)]
    c = SiLU(time(e) + caption(the L words' 32 numbers, one behind the other))
    h = [embed(word_i) + text.position_i ; in(patch_j) + video.position_j],  j in order of time, row, column
    layer I: (scale1, shift1, gate1, scale2, shift2, gate2) = modulate(c) + table_I
        h += gate1 ⊙ mix(norm(h) ⊙ (1 + scale1) + shift1)      norm: LayerNorm without weights, eps 1e-5
        h += gate2 ⊙ ffn(norm(h) ⊙ (1 + scale2) + shift2)
    (scale, shift) = modulate.out(c);  v = out(norm(h of the video tokens) ⊙ (1 + scale) + shift), patches put back
    mix of layer I; with video.reverse the N video tokens come in and go out in the opposite order, the text stays in front
        flow.layer.I.mix.in.weight [4d, d]: rows of q, k, v, z, head after head   q, k = x / |x| of SiLU(q), SiLU(k), per head
        flow.layer.I.mix.gates.weight [2H (+ H·levels), d] (+ .bias): rows a [H], b [H], l [H·levels]
            log decay g = -softplus(a), write strength β = sigmoid(b), level weights λ = softplus(l) (log_linear)
        log_linear: o_t = Σ_{s≤t} λ_t[level(t, s)] e^(g_{s+1} + … + g_t) β_s (q_t·k_s) v_s
                    (ops/log_linear.h of β ⊙ v, without its beta)
        mesa:       ops/mesa.h with Λ = flow.layer.I.mix.ridge [H, D] (stored as it is used), solved exactly
        out: flow.layer.I.mix.norm.weight [D] ⊙ o/√(mean o² + 1e-5) per head, ⊙ SiLU(z), flow.layer.I.mix.out.weight [d, d]
    ffn of layer I
        y = flow.layer.I.ffn.up.weight [2m, d] (+ .bias);  video tokens alone: depthwise 3×3 over rows and columns of a frame
        (flow.layer.I.ffn.space.weight [9, 2m] + .bias), then depthwise 3 over time (flow.layer.I.ffn.time.weight [3, 2m] + .bias),
        both padded by zeros on both sides (time too: it is not causal);  (u, w) = halves of y
        flow.layer.I.ffn.down.weight [d, m] (+ .bias) of SiLU(u) ⊙ w
The prototype's file (one that trains/tests are held against) has the same parts under other names: mx.I.qkv and .g are mix.in, ab and
lam are gates, softplus(Lam) + 1/4 is ridge, ff.I.a/dw/tw/b are ffn.up/space/time/down, tok, tpos, vpos, tm, cm, ctok, ada, adab, fin.
Sampler: x at t = 1 is noise; Euler x += (t_{i+1} - t_i)·v; guidance v = v_no + cfg·(v_words - v_no), "no" = word 1 and then zeros.
A clean first latent (from an image) stands in slot 0 with t = 0 for its tokens: e, c and all that is made of c are then per token.
"""
import argparse
import copy
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from folio import format, from_vae, quant
from folio.stored import Stored
from muon import Muon
from video import card, detector, score, shapes
from video.nets import Flow, ThinVae, from_patches, sample, to_patches

NAME = "folio-shapes-4m"
GRID, LATENT = (5, 4, 4), 16
# Everything that was chosen. steps: the learning rate rises for `warm` steps, stays, and falls in a line over the last `cool` share.
VAE = {"encoder": 32, "decoder": (64, 48, 32, 16), "steps": 7400, "batch": 12, "frames": 9, "crop": 32, "muon": 0.012, "adam": 1.2e-3,
       "decay": 0.01, "warm": 50, "cool": 1.0, "noise": 0.05, "ema": 0.995, "seed": 1}
BANK = {"clips": 16384, "shard": 256, "piece": 32, "seed": 2}
FLOW = {"steps": 8000, "batch": 32, "muon": 0.02, "adam": 2e-3, "decay": 0.02, "warm": 100, "cool": 0.8, "ema": 0.998, "seed": 3,
        "no_caption": 0.1, "no_size": 0.15, "no_background": 0.15, "clean": 0.2}
LEVELS = (shapes.TEXT + GRID[0] * GRID[1] * GRID[2] - 1).bit_length() + 1
MODEL = {"words": len(shapes.WORDS), "text": shapes.TEXT, "grid": GRID, "channels": 64, "dim": 192, "layers": 6, "heads": 6, "wide": 480,
         "caption": 32, "mixers": ["log_linear", "mesa"] * 3, "reverse": [0, 0, 1, 1, 0, 0], "rounds": 10}
JUDGE = {"vae": 160, "flow": 192, "often": 32, "card": 200, "scale": 256}  # clips to look at; scale: for mean and deviation of latents
SAMPLER = {"steps": 24, "cfg": 3.0, "shift": 1.0}


def replace(path, write):
    beside = path.with_name(path.name + ".part")
    write(beside)
    beside.replace(path)


def say(*words):
    print(time.strftime("%H:%M:%S", time.gmtime()), f"cpu {time.process_time():.0f}", *words, flush=True)


def table(marks):
    return " ".join(f"{name} {share:.3f}" for name, share in detector.mean_marks(marks).items())


def ahead(draw, keys, processes):
    """draw(key) of every key, in order; drawn by other processes while a GPU works, here if there are none."""
    if not processes:
        yield from map(draw, keys)
        return
    waiting = deque()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:  # a fork would share CUDA
        for key in keys:
            waiting.append(pool.submit(draw, key))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Training:
    """A network that learns: optimisers, average, step; saved every `args.save` seconds and on SIGTERM, taken up again from there."""

    def __init__(self, name, net, plan, matrices, args):
        self.path, self.net, self.plan, self.args = args.out / f"{name}.pt", net.to(args.device), plan, args
        chosen = {id(p) for n, p in net.named_parameters() if matrices(n, p)}
        self.opts = [Muon([p for p in net.parameters() if id(p) in chosen], plan["muon"], 0.95, plan["decay"]),
                     torch.optim.AdamW([p for p in net.parameters() if id(p) not in chosen], plan["adam"], (0.9, 0.98), weight_decay=0.0)]
        self.peaks = [[g["lr"] for g in opt.param_groups] for opt in self.opts]
        self.average, self.step, self.smooth = copy.deepcopy(net).requires_grad_(False), 0, None
        if self.path.exists():
            state = torch.load(self.path, map_location=args.device, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.average.load_state_dict(state["average"])
            for opt, saved in zip(self.opts, state["opts"]):
                opt.load_state_dict(saved)
            self.step, self.smooth = state["step"], state["smooth"]
        self.saved = self.shown = time.time()
        # One worker a core, each with its own share of the batch: they meet once a step. Inside every operation, as PyTorch would have
        # it, two threads on a busy machine mostly waited for each other.
        self.workers = ThreadPoolExecutor(args.threads, initializer=torch.set_num_threads, initargs=(1,))

    def save(self):
        state = {"net": self.net.state_dict(), "average": self.average.state_dict(), "opts": [opt.state_dict() for opt in self.opts],
                 "step": self.step, "smooth": self.smooth}
        replace(self.path, lambda path: torch.save(state, path))
        self.saved = time.time()

    def advance(self, loss, *batch):
        """One step; loss(net, *batch), the mean over a batch, is taken of shares of it."""
        count = self.args.threads if self.args.device == "cpu" else 1
        shares = zip(*(b.to(self.args.device).chunk(count) for b in batch))
        parameters = list(self.net.parameters())

        def gradient(share):
            value = loss(self.net, *share)
            return value.detach(), torch.autograd.grad(value, parameters)

        values, gradients = zip(*self.workers.map(gradient, shares))
        for p, *g in zip(parameters, *gradients):
            p.grad = sum(g) / len(g)
        self.learn(sum(v.item() for v in values) / len(values))

    def learn(self, loss):
        plan, share = self.plan, self.step / self.plan["steps"]
        rate = min(1, (self.step + 1) / plan["warm"]) * min(1, (1 - share) / plan["cool"])
        for opt, peaks in zip(self.opts, self.peaks):
            for group, peak in zip(opt.param_groups, peaks):
                group["lr"] = peak * rate
        if torch.isfinite(nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)):
            for opt in self.opts:
                opt.step()
        for opt in self.opts:
            opt.zero_grad()
        self.step += 1
        keep = min(plan["ema"], (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.net.parameters()):
                a.lerp_(p, 1 - keep)
        self.smooth = loss if self.smooth is None else 0.98 * self.smooth + 0.02 * loss
        if self.step % 20 == 0:
            now = time.time()
            say(f"{self.path.stem} step {self.step} loss {self.smooth:.4f} {20 * plan['batch'] / (now - self.shown):.1f} clips/s")
            self.shown = now
        over = self.args.stop or time.time() > self.args.end
        if time.time() - self.saved > self.args.save or self.step == plan["steps"] or over:
            self.save()
        if over:
            sys.exit(0)


# ---- stage vae

def vae_batch(plan, step):
    """Windows [B, T, 3, h, w] of clips that show at least a part of the shape, and noise for their latents. The same at the same step,
    however often the training was interrupted."""
    rng, out = np.random.default_rng([plan["seed"], step]), []
    for _ in range(plan["batch"]):
        clip = shapes.draw(rng, shapes.training_scene(rng))
        first = int(rng.integers(shapes.FRAMES - plan["frames"] + 1))
        middle, reach = first + plan["frames"] // 2, plan["crop"] // 2
        corner = lambda at: int(np.clip(at[middle] + rng.uniform(-1, 1) * clip.radius[middle] - reach + rng.uniform(-8, 8),
                                        0, shapes.SIDE - plan["crop"]))
        top, left = corner(clip.y), corner(clip.x)
        out.append(clip.render(slice(first, first + plan["frames"]), slice(top, top + plan["crop"]), slice(left, left + plan["crop"])))
    noise = rng.standard_normal((len(out), -(-plan["frames"] // 4), LATENT, plan["crop"] // 8, plan["crop"] // 8), np.float32)
    return np.stack(out).transpose(0, 1, 4, 2, 3), noise


def vae_loss(vae, video, noise):
    z = vae.encode(video)
    made = vae.decode(z + noise * VAE["noise"] * z.detach().std())
    off = made - video
    edges = off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    return off.abs().mean() + 8 * off.square().mean() + 0.25 * edges


def whole_clips(count, scene, seed):
    """[B, T, 3, H, W] and their scenes."""
    rng = np.random.default_rng(seed)
    made = [shapes.draw(rng, scene(rng)) for _ in range(count)]
    return np.stack([c.render() for c in made]).transpose(0, 1, 4, 2, 3), [c.scene for c in made]


@torch.no_grad()
def judge_vae(vae, count, device):
    """PSNR, and what the detector sees in reconstructions of clips that training has never seen."""
    marks, errors = [], []
    for first in range(0, count, 8):
        video, scenes = whole_clips(min(8, count - first), shapes.any_scene, [99, first])
        seen = vae.decode(vae.encode(torch.from_numpy(video).to(device))).clamp(0, 1).cpu().numpy()
        errors.append(np.square(seen - video).mean())
        marks += [detector.marks(detector.detect(clip), scene) for clip, scene in zip(seen.transpose(0, 1, 3, 4, 2), scenes)]
    return f"{-10 * np.log10(np.mean(errors)):.2f} dB", table(marks)


def new_vae():
    return ThinVae(VAE["encoder"], VAE["decoder"], LATENT)


def train_vae(args):
    run = Training("vae", new_vae(), VAE, lambda name, p: p.ndim == 4 and name not in ("encoder.0.weight", "decoder.22.weight"), args)
    say("vae:", ", ".join(f"{n} {sum(p.numel() for p in part.parameters()):,}" for n, part in run.net.named_children()), "parameters")
    for video, noise in ahead(partial(vae_batch, VAE), range(run.step, VAE["steps"]), args.processes):
        run.advance(vae_loss, torch.from_numpy(video), torch.from_numpy(noise))
        if run.step % args.measure == 0:
            say("vae step", run.step, "of unseen clips: PSNR", *judge_vae(run.average, JUDGE["often"], args.device))
    if run.average.std.eq(1).all():
        pieces = (whole_clips(min(8, JUDGE["scale"]), shapes.training_scene, [98, first])[0] for first in range(0, JUDGE["scale"], 8))
        with torch.no_grad():
            z = torch.cat([run.average.encode(torch.from_numpy(piece).to(args.device)) for piece in pieces])
        run.average.mean.copy_(z.mean((0, 1, 3, 4)))
        run.average.std.copy_(z.std((0, 1, 3, 4)))
        run.save()
        say("vae done, of unseen clips: PSNR", *judge_vae(run.average, JUDGE["vae"], args.device))
    return run.average


def load_vae(args):
    vae = new_vae()
    vae.load_state_dict(torch.load(args.out / "vae.pt", map_location="cpu", weights_only=True)["average"])
    return vae.requires_grad_(False).to(args.device)


# ---- stage latents

def make_latents(args):
    """DIR/bank-NNN.npz: tokens [shard, N, C] f16, scenes [shard, 5] u8."""
    vae, pieces = load_vae(args), BANK["shard"] // BANK["piece"]
    wanted = [n for n in range(BANK["clips"] // BANK["shard"]) if not (args.out / f"bank-{n:03d}.npz").exists()]
    draw = partial(whole_clips, BANK["piece"], shapes.training_scene)
    tokens, scenes = [], []
    for video, shown in ahead(draw, [[BANK["seed"], n, piece] for n in wanted for piece in range(pieces)], args.processes):
        with torch.no_grad():
            latents = vae.normalise(vae.encode(torch.from_numpy(video).to(args.device)))
        tokens.append(to_patches(latents).cpu().numpy().astype(np.float16))
        scenes += [[getattr(scene, name) for name in shapes.ATTRIBUTES] for scene in shown]
        if len(tokens) == pieces:
            with open(args.out / "bank.part", "wb") as file:
                np.savez(file, tokens=np.concatenate(tokens), scenes=np.array(scenes, np.uint8))
            (args.out / "bank.part").replace(args.out / f"bank-{wanted.pop(0):03d}.npz")
            tokens, scenes = [], []
            if args.stop or time.time() > args.end:
                sys.exit(0)
    say(f"latents: {BANK['clips']:,} clips")


# ---- stage flow

def flow_batch(plan, tokens, scenes, step):
    """x, noise, times, words, which have a clean first latent."""
    rng = np.random.default_rng([plan["seed"], step])
    pick = rng.integers(len(scenes), size=plan["batch"])
    words = []
    for i in pick:
        said = shapes.caption(shapes.Scene(*map(int, scenes[i])), rng.random() >= plan["no_size"], rng.random() >= plan["no_background"])
        words.append(shapes.NO_CAPTION if rng.random() < plan["no_caption"] else shapes.encode(said))
    x = torch.from_numpy(tokens[pick]).float()
    noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
    t = torch.sigmoid(torch.from_numpy(rng.standard_normal(len(x), np.float32)))
    return x, noise, t, torch.tensor(words), torch.from_numpy(rng.random(len(x)) < plan["clean"])


def flow_loss(flow, x, noise, t, words, clean):
    time = t[:, None, None].expand(-1, x.shape[1], 1).clone()
    time[clean, :flow.slot] = 0
    off = flow((1 - time) * x + time * noise, t, words, clean) - (noise - x)
    return (off.square() * (time > 0)).sum() / ((time > 0).sum() * x.shape[2])


@torch.no_grad()
def generate(flow, vae, scenes, device, seed=0, steps=SAMPLER["steps"], cfg=SAMPLER["cfg"], shift=SAMPLER["shift"]):
    """[B, FRAMES, H, W, 3] numpy of the scenes' captions."""
    words = torch.tensor([shapes.encode(shapes.caption(s)) for s in scenes], device=device)
    noise = torch.randn(len(scenes), np.prod(GRID), 64, generator=torch.Generator().manual_seed(seed)).to(device)
    x = sample(flow, noise, words, torch.tensor(shapes.NO_CAPTION, device=device), steps, cfg, shift)
    return vae.decode(vae.restore(from_patches(x, GRID))).clamp(0, 1).permute(0, 1, 3, 4, 2).cpu().numpy()


def judge_flow(flow, vae, count, device, **sampler):
    rng, marks = np.random.default_rng(123), []
    for first in range(0, count, 32):
        scenes = [shapes.any_scene(rng) for _ in range(min(32, count - first))]
        made = generate(flow, vae, scenes, device, first, **sampler)
        marks += [detector.marks(detector.detect(clip), scene) for clip, scene in zip(made, scenes)]
    return table(marks)


def train_flow(args):
    plan, vae = FLOW, load_vae(args)
    shards = [np.load(p) for p in sorted(args.out.glob("bank-*.npz"))]
    tokens, scenes = (np.concatenate([s[key] for s in shards]) for key in ("tokens", "scenes"))
    hidden = (".mix.parts.in.", ".mix.parts.out.", ".ffn.up.", ".ffn.down.")
    torch.manual_seed(plan["seed"])
    run = Training("flow", Flow(**MODEL), plan, lambda name, p: p.ndim == 2 and any(part in name for part in hidden), args)
    say(f"flow: {sum(p.numel() for p in run.net.parameters()):,} parameters, {len(scenes):,} clips")
    fused = torch.compile(run.net) if args.compile else run.net
    loss = lambda net, *batch: flow_loss(fused, *batch)
    if args.compile and args.device == "cpu":  # one worker compiles, the others find it done
        share = [b.chunk(args.threads)[0] for b in flow_batch(plan, tokens, scenes, run.step)]
        run.workers.submit(lambda: torch.autograd.grad(loss(run.net, *share), list(run.net.parameters()))).result()
    while run.step < plan["steps"]:
        run.advance(loss, *flow_batch(plan, tokens, scenes, run.step))
        if run.step % args.measure == 0:
            say("flow step", run.step, "generated:", judge_flow(run.average, vae, JUDGE["often"], args.device, steps=12))
    say("flow done, generated:", judge_flow(run.average, vae, JUDGE["flow"], args.device))


# ---- stage export

NAMES = (("layers.", "layer."), ("mix.parts.", "mix."), ("mix.norm", "mix.norm.weight"), ("into.", "in."),
         ("caption_embed.", "caption.embed."), ("_position", ".position"), ("modulate_out", "modulate.out"))  # ours here, and in the file


def vae_tensors(vae):
    """Its metadata and {name: (format, f32 array)}, laid out as the converter lays out TAEHV."""
    plain = {name: w.contiguous().numpy() for name, w in vae.state_dict().items() if name not in ("mean", "std")}
    stored = {name: Stored("f32", w.shape, w.view(np.uint8).reshape(-1), name) for name, w in plain.items()}
    described, out = from_vae.describe(NAME, stored, "front"), {}
    for want in described.wanted():
        laid = want.lay(stored[want.name]) if want.lay else stored[want.name]
        out[want.name] = "f16" if want.matrix else "f32", laid.floats(0, laid.rows).reshape(laid.shape)
    return described.metadata(), out


def flow_tensors(vae, flow):
    out = {f"flow.{name}": ("f32", getattr(vae, name).numpy()) for name in ("mean", "std")}
    for name, w in flow.state_dict().items():
        matrix = w.ndim == 2 and name.endswith("weight")
        for here, there in NAMES:
            name = name.replace(here, there)
        if name.endswith("ridge"):
            w = F.softplus(w) + 0.25
        if w.ndim == 4:  # depthwise
            w = w.flatten(1).T
        out["flow." + ("modulate.table" if name == "table" else name)] = "f16" if matrix else "f32", w.contiguous().numpy()
    return out


def metadata():
    return {"arch": "video_dit", "name": NAME, "video.frames": shapes.FRAMES, "video.height": shapes.SIDE, "video.width": shapes.SIDE,
            "video.fps": 8, "video.grid": list(GRID), "video.patch": 2, "video.dim": MODEL["dim"], "video.layers": MODEL["layers"],
            "video.heads": MODEL["heads"], "video.ffn": MODEL["wide"], "video.text": shapes.TEXT, "video.caption": MODEL["caption"],
            "video.words": list(shapes.WORDS), "video.mixers": MODEL["mixers"], "video.reverse": MODEL["reverse"], "video.levels": LEVELS,
            "video.steps": SAMPLER["steps"], "video.cfg": SAMPLER["cfg"], "video.shift": SAMPLER["shift"]}


def export(args):
    """DIR/NAME.folio: matrices and convolutions in f16, the rest in f32."""
    vae, flow = load_vae(args).cpu(), Flow(**MODEL)
    flow.load_state_dict(torch.load(args.out / "flow.pt", map_location="cpu", weights_only=True)["average"])
    described, tensors = vae_tensors(vae)
    parameters = {"VAE": sum(p.numel() for p in vae.parameters()), "flow model": sum(p.numel() for p in flow.parameters())}
    tensors |= flow_tensors(vae, flow)
    entries = [format.Entry(name, kind, w.shape) for name, (kind, w) in tensors.items()]
    data = lambda e: [quant.from_float(e.format, tensors[e.name][1])]
    size = format.write(args.out / f"{NAME}.folio", described | metadata(), entries, data)
    say(f"{args.out / NAME}.folio: {size:,} bytes")
    steps = {name: torch.load(args.out / f"{name}.pt", map_location="cpu", weights_only=True)["step"] for name in ("vae", "flow")}
    asked, seen = score.scenes(JUDGE["card"]), []
    for first in range(0, len(asked), 32):
        made = generate(flow.to(args.device), vae.to(args.device), asked[first:first + 32], args.device, first)
        seen += [detector.detect(clip) for clip in made]
    text = card.card(NAME, size, parameters, (VAE, BANK, FLOW, SAMPLER), steps, judge_vae(vae, JUDGE["vae"], args.device),
                     score.report(asked, seen))
    replace(args.out / f"{NAME}.md", lambda path: path.write_text(text, encoding="utf-8"))


STAGES = {"vae": train_vae, "latents": make_latents, "flow": train_flow, "export": export}


def arguments(argv):
    p = argparse.ArgumentParser(description="Trains Folio's small video model; see the head of this file.")
    p.add_argument("stage", choices=[*STAGES, "all"])
    p.add_argument("--out", type=Path, required=True, help="folder of checkpoints, latents and the result")
    p.add_argument("--vae-steps", type=int, default=VAE["steps"], help="default %(default)s")
    p.add_argument("--flow-steps", type=int, default=FLOW["steps"], help="default %(default)s")
    p.add_argument("--clips", type=int, default=BANK["clips"], help="clips in the bank of latents, default %(default)s")
    p.add_argument("--measure", type=int, default=250, help="steps between two looks at what has been learned, default 250")
    p.add_argument("--save", type=float, default=90, help="seconds between checkpoints, default 90")
    p.add_argument("--minutes", type=float, default=1e9, help="save and end after so many; the same command goes on from there")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=2, help="of a CPU; default 2")
    p.add_argument("--compile", action="store_true",
                   help="torch.compile the flow model: a step takes a quarter less time, the first one minutes (needs a C++ compiler)")
    args = p.parse_args(argv)
    args.processes = 0 if args.device == "cpu" else min(8, os.cpu_count())  # that draw clips for a GPU
    args.end, args.stop = time.time() + 60 * args.minutes, False
    return args


def main(argv=None):
    args = arguments(argv)
    VAE["steps"], FLOW["steps"], BANK["clips"] = args.vae_steps, args.flow_steps, args.clips
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # a VAE that has trained for a while makes them: without this a step takes 2.7 times as long
    torch.manual_seed(0)

    def stop(number, frame):  # the step that runs is finished and saved
        args.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for stage in (STAGES if args.stage == "all" else [args.stage]):
        STAGES[stage](args)


if __name__ == "__main__":
    main()
