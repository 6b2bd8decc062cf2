#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A tiny flow model of clips in tests/golden/video, under the prototype's names, and what its formulas give in float64.

    python tests/golden/make_video_golden.py        needs numpy, safetensors; its output is committed

Every sum is written out as it stands in tools/train_video.py: all tokens against all, no pages. 155 tokens are three pages of the engine.
  tiny.safetensors   weights, seeded; the header says the sizes
  z, t, row, word    two clips [2, T', h, w, c] with captions [2, L]; the times of each [4]: its own and 0; which time each token has [2, N]
  v                  with every token at its clip's time, Mesa by six rounds of conjugate gradients
  v_clean            with the first frame's tokens at time 0
  v_exact            as v, Mesa solved exactly
"""
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent / "video"
C, H, LAYERS, F, L, CAPTION, Z, P, GRID, ROUNDS = 16, 2, 4, 24, 5, 8, 3, 2, (5, 5, 6), 6
D, N, c = C // H, int(np.prod(GRID)), Z * P * P
T, LEVELS = L + N, (L + N - 1).bit_length() + 1
WORDS = ["<pad>", "<null>", "a", "red", "blue", "circle", "square", "moving"]
ORDER, SCAN = ["lla", "mesa"], [0, 0, 1, 1]


def weights(rng):
    w = {"vae.mean": rng.normal(0, 1, Z), "vae.std": rng.uniform(0.5, 2, Z), "dit.tpos": rng.normal(0, 0.3, (L, C)),
         "dit.vpos": rng.normal(0, 0.3, (N, C)), "dit.adab": rng.normal(0, 0.3, (LAYERS, 6 * C)),
         "dit.tok.weight": rng.normal(0, 1, (len(WORDS), C)),
         "dit.ctok.weight": rng.normal(0, 1, (len(WORDS), CAPTION))}

    def linear(name, rows, columns, scale=1.0, bias=0.1):
        w[f"dit.{name}.weight"] = rng.normal(0, scale / np.sqrt(columns), (rows, columns))
        if bias:
            w[f"dit.{name}.bias"] = rng.normal(0, bias, rows)

    for name, rows, columns in (("inp", C, c), ("out", c, C), ("tm.0", C, 128), ("tm.2", C, C), ("cm.0", C, CAPTION * L), ("cm.2", C, C),
                                ("ada", 6 * C, C), ("fin", 2 * C, C)):
        linear(name, rows, columns)
    for i in range(LAYERS):
        kind = ORDER[i % 2]
        for name, rows in (("qkv", 3 * C), ("g", C), ("o", C)):
            linear(f"mx.{i}.{name}", rows, C, bias=0)
        linear(f"mx.{i}.ab", 2 * H, C)
        w[f"dit.mx.{i}.ab.bias"] += np.repeat([-3.0, 1.0], H)
        if kind == "lla":
            linear(f"mx.{i}.lam", H * LEVELS, C, bias=0.5)
        else:
            w[f"dit.mx.{i}.Lam"] = rng.normal(0, 0.5, (H, D))
        w[f"dit.mx.{i}.nw"] = rng.uniform(0.5, 1.5, D)
        linear(f"ff.{i}.a", 2 * F, C)
        linear(f"ff.{i}.b", C, F)
        for name, taps in (("dw", (3, 3)), ("tw", (3,))):
            w[f"dit.ff.{i}.{name}.weight"] = rng.normal(0, 0.5, (2 * F, 1, *taps))
            w[f"dit.ff.{i}.{name}.bias"] = rng.normal(0, 0.1, 2 * F)
    return {name: x.astype(np.float32) for name, x in w.items()}


sigmoid = lambda x: 1 / (1 + np.exp(-x))
silu = lambda x: x * sigmoid(x)
softplus = lambda x: np.logaddexp(x, 0)
unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


class Model:
    def __init__(self, w, exact):
        self.w, self.exact = {name: x.astype(np.float64) for name, x in w.items()}, exact

    def linear(self, name, x):
        bias = self.w.get(f"dit.{name}.bias")
        return x @ self.w[f"dit.{name}.weight"].T + (0 if bias is None else bias)

    def solve(self, A, q, start):
        """A[t] x[t] = q[t] for all t; A symmetric."""
        if self.exact:
            return np.linalg.solve(A, q[..., None])[..., 0]
        x, times = start, lambda p: np.einsum("tij,tj->ti", A, p)
        r = q - times(x)
        p, delta = r, (r * r).sum(-1, keepdims=True)
        for _ in range(ROUNDS):
            y = times(p)
            alpha = delta / ((p * y).sum(-1, keepdims=True) + 1e-6)
            x, r = x + alpha * p, r - alpha * y
            new = (r * r).sum(-1, keepdims=True)
            p, delta = r + new / (delta + 1e-6) * p, new
        return x

    def mix(self, i, x):
        name, kind = f"mx.{i}", ORDER[i % 2]
        q, k, v = (part.reshape(T, H, D) for part in np.split(self.linear(name + ".qkv", x), 3, -1))
        q, k = unit(silu(q)), unit(silu(k))
        ab, out = self.linear(name + ".ab", x), np.zeros((T, H, D))
        level = np.array([[(t ^ s).bit_length() for s in range(T)] for t in range(T)])
        seen = np.tril(np.ones((T, T), bool))
        for h in range(H):
            b = np.cumsum(-softplus(ab[:, h]))
            M = np.where(seen, np.exp(np.where(seen, b[:, None] - b, 0)), 0) * sigmoid(ab[:, H + h])
            if kind == "lla":
                lam = softplus(self.linear(name + ".lam", x)).reshape(T, H, LEVELS)[:, h]
                M, z = M * np.take_along_axis(lam, level, 1), q[:, h]
            else:
                ridge = softplus(self.w[f"dit.{name}.Lam"][h]) + 0.25
                A = np.einsum("ts,si,sj->tij", M, k[:, h], k[:, h]) + np.diag(ridge)
                z = self.solve(A, q[:, h], q[:, h] / (ridge + np.diag(M)[:, None]))
            out[:, h] = ((z @ k[:, h].T) * M) @ v[:, h]
        out = out / np.sqrt((out * out).mean(-1, keepdims=True) + 1e-5) * self.w[f"dit.{name}.nw"]
        return self.linear(name + ".o", out.reshape(T, C) * silu(self.linear(name + ".g", x)))

    def feed(self, i, x):
        name, (t, h, w) = f"ff.{i}", GRID
        y = self.linear(name + ".a", x)
        image = np.pad(y[L:].reshape(t, h, w, 2 * F), ((0, 0), (1, 1), (1, 1), (0, 0)))
        taps = self.w[f"dit.{name}.dw.weight"][:, 0]
        image = sum(image[:, a:a + h, b:b + w] * taps[:, a, b] for a in range(3) for b in range(3)) + self.w[f"dit.{name}.dw.bias"]
        clip = np.pad(image, ((1, 1), (0, 0), (0, 0), (0, 0)))
        taps = self.w[f"dit.{name}.tw.weight"][:, 0]
        clip = sum(clip[a:a + t] * taps[:, a] for a in range(3)) + self.w[f"dit.{name}.tw.bias"]
        u, g = np.split(np.concatenate([y[:L], clip.reshape(N, 2 * F)]), 2, -1)
        return self.linear(name + ".b", silu(u) * g)

    def forward(self, z, times, word):
        """z [N, c], times [T]: of each token, word [L] -> [N, c]"""
        angle = 1000 * times[:, None] * 10000 ** (-np.arange(64) / 64)
        time = self.linear("tm.2", silu(self.linear("tm.0", np.concatenate([np.cos(angle), np.sin(angle)], -1))))
        cond = silu(time + self.linear("cm.2", silu(self.linear("cm.0", self.w["dit.ctok.weight"][word].reshape(-1)))))
        x = np.concatenate([self.w["dit.tok.weight"][word] + self.w["dit.tpos"], self.linear("inp", z) + self.w["dit.vpos"]])
        turn = np.concatenate([np.arange(L), np.arange(T - 1, L - 1, -1)])
        for i in range(LAYERS):
            s1, b1, g1, s2, b2, g2 = np.split(self.linear("ada", cond) + self.w["dit.adab"][i], 6, -1)
            y = norm(x) * (1 + s1) + b1
            x = x + g1 * (self.mix(i, y[turn])[turn] if SCAN[i] else self.mix(i, y))
            x = x + g2 * self.feed(i, norm(x) * (1 + s2) + b2)
        scale, shift = np.split(self.linear("fin", cond), 2, -1)
        return self.linear("out", norm(x) * (1 + scale) + shift)[L:]


def main():
    rng = np.random.default_rng(7)
    OUT.mkdir(exist_ok=True)
    w = weights(rng)
    header = {"vocab": json.dumps(WORDS), "d": C, "n": LAYERS, "h": H, "patch": P, "z": Z, "grid": ",".join(map(str, GRID)), "text_len": L,
              "cg": ROUNDS, "order": "lla,mesa", "dir": "fwd,fwd,rev,rev"}
    save_file(w, OUT / "tiny.safetensors", {key: str(value) for key, value in header.items()})
    z, t = rng.normal(0, 1, (2, N, c)).astype(np.float32), np.float32([0.7, 0, 0.3, 0])
    word = np.int32([[2, 3, 5, 7, 0], [1, 0, 0, 0, 0]])
    per_token = lambda b, clean: np.where(np.arange(T) - L < clean, 0.0, t[2 * b]) * (np.arange(T) >= L) + t[2 * b] * (np.arange(T) < L)
    row = np.int32([[2 * b + (i < GRID[1] * GRID[2]) for i in range(N)] for b in range(2)])
    runs = {"v": (False, 0), "v_clean": (False, GRID[1] * GRID[2]), "v_exact": (True, 0)}
    arrays = {"z": z, "t": t, "word": word, "row": row}
    for name, (exact, clean) in runs.items():
        model = Model(w, exact)
        arrays[name] = np.float32([model.forward(z[b].astype(np.float64), per_token(b, clean), word[b]) for b in range(2)])
    for name, x in arrays.items():
        np.save(OUT / f"{name}.npy", x)


if __name__ == "__main__":
    main()
