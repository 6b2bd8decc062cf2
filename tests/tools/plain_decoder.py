# SPDX-License-Identifier: MIT
"""models/decoder.h in plain NumPy: logits of a whole sequence from a .folio, by the formulas and nothing else.

It is here so that a conversion can be checked without the engine. float64 inside, no cache, no speed.
"""
import math

import numpy as np
from folio import quant


class PlainDecoder:
    def __init__(self, folio):
        self.folio, self.meta = folio, folio.metadata

    def tensor(self, name):
        entry = self.folio.tensors[name]
        return quant.to_float(entry.format, self.folio.raw(name)).reshape(entry.shape).astype(np.float64)

    def linear(self, x, name):
        y = x @ self.tensor(name + ".weight").T
        return y + self.tensor(name + ".bias") if name + ".bias" in self.folio.tensors else y

    def norm(self, x, name, eps=None):
        eps = self.meta["norm.eps"] if eps is None else eps
        if self.meta["norm.kind"] == "layer":
            x = x - x.mean(-1, keepdims=True)
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.tensor(name + ".weight") + self.tensor(name + ".bias")
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.tensor(name + ".weight")

    def logits(self, ids):
        meta = self.meta
        x = self.tensor("embed.weight")[ids] * meta.get("embed.scale", 1)
        if meta.get("embed.positions") == "learned":
            x = x + self.tensor("embed.positions")[:len(ids)]
        for i in range(meta["layers"]):
            mixer, ffn = f"mixer.{meta['layer.mixer'][i]}.", f"ffn.{meta['layer.ffn'][i]}."
            mix = self.latent_attention if meta[mixer + "kind"] == "mla" else self.attention
            x = x + mix(self.norm(x, f"layer.{i}.norm_mix"), f"layer.{i}.mix.", mixer)
            x = x + self.feed_forward(self.norm(x, f"layer.{i}.norm_ffn"), f"layer.{i}.ffn.", ffn)
        head = "head.weight" if "head.weight" in self.folio.tensors else "embed.weight"
        return self.norm(x, "norm_out") @ self.tensor(head).T

    def feed_forward(self, x, layer, ffn):
        if self.meta[ffn + "kind"] == "experts":
            return self.experts(x, layer, lambda key, absent=0: self.meta.get(ffn + key, absent))
        up = self.linear(x, layer + "up")
        act = ACTIVATIONS[self.meta[ffn + "act"]]
        h = act(self.linear(x, layer + "gate")) * up if self.meta[ffn + "gated"] else act(up)
        return self.linear(h, layer + "down")

    def experts(self, x, layer, get):
        tensor = lambda name: self.tensor(layer + name + ".weight")
        act, logits = ACTIVATIONS[get("act")], x @ tensor("router").T
        s = 1 / (1 + np.exp(-logits)) if get("scoring") == "sigmoid" else np.exp(logits - logits.max(-1, keepdims=True))
        s = s if get("scoring") == "sigmoid" else s / s.sum(-1, keepdims=True)
        key = s + self.tensor(layer + "router.bias") if get("bias") else s.copy()
        groups = get("groups", 1)
        by_group = key.reshape(len(x), groups, -1)
        rank = np.sort(by_group, -1)[..., -get("group_best", 1):].sum(-1)
        for t in range(len(x)):
            by_group[t, np.argsort(-rank[t], kind="stable")[get("groups_kept", groups):]] = -np.inf
        chosen = np.argsort(-key, -1, kind="stable")[:, :get("chosen")]
        weight = np.take_along_axis(s, chosen, -1)
        weight = (weight / weight.sum(-1, keepdims=True) if get("normalise") else weight) * get("scale", 1)
        gate, up, down = tensor("experts.gate"), tensor("experts.up"), tensor("experts.down")
        out = np.array([sum(w * (down[e] @ (act(gate[e] @ row) * (up[e] @ row))) for e, w in zip(ids, ws))
                        for row, ids, ws in zip(x, chosen, weight)])
        if get("shared"):
            shared = (act(x @ tensor("shared.gate").T) * (x @ tensor("shared.up").T)) @ tensor("shared.down").T
            out = out + (shared / (1 + np.exp(-(x @ tensor("shared_gate").T))) if get("shared_gate") else shared)
        return out

    def attention(self, x, layer, mixer):
        get = lambda key, absent=None: self.meta.get(mixer + key, absent)
        T, H, G, D = len(x), get("heads"), get("groups"), get("head_size")
        qkv = self.linear(x, layer + "qkv").reshape(T, H + 2 * G, D)
        q, k, v = qkv[:, :H], qkv[:, H:H + G], qkv[:, H + G:]
        if get("qk_norm", 0):
            q, k = self.norm(q, layer + "q_norm"), self.norm(k, layer + "k_norm")
        if get("rope", "none") != "none":
            q, k = (rotate(y, get) for y in (q, k))
        k, v = (np.repeat(y, H // G, axis=1) for y in (k, v))
        y = softmax(np.einsum("ihd,jhd->hij", q, k) * get("scale", 1 / math.sqrt(D)), get("window", 0), v)
        return self.linear(y.reshape(T, H * D), layer + "out")

    def latent_attention(self, x, layer, mixer):
        get = lambda key, absent=None: self.meta.get(mixer + key, absent)
        T, H, dn, dr, dv, R = len(x), *(get(key) for key in ("heads", "key_size", "rope_size", "value_size", "rank"))
        y = self.linear(x, layer + "in")
        q, c, r = y[:, :-R - dr], self.norm(y[:, -R - dr:-dr], layer + "latent_norm", get("norm_eps")), y[:, -dr:]
        if get("q_rank"):
            q = self.linear(self.norm(q, layer + "q_norm", get("norm_eps")), layer + "q_up")
        q, r = q.reshape(T, H, dn + dr), rotate(r[:, None], get, dr)
        k = np.concatenate([self.linear(c, layer + "k_up").reshape(T, H, dn), np.repeat(r, H, axis=1)], -1)
        q = np.concatenate([q[..., :dn], rotate(q[..., dn:], get, dr)], -1)
        y = softmax(np.einsum("ihd,jhd->hij", q, k) * get("scale"), 0, self.linear(c, layer + "v_up").reshape(T, H, dv))
        return self.linear(y.reshape(T, H * dv), layer + "out")


def softmax(scores, window, v):
    i, j = np.arange(len(v))[:, None], np.arange(len(v))[None]
    seen = j <= i if not window else (j <= i) & (j > i - window)
    scores = np.where(seen, scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v)


def rotate(x, get, size=None):
    n = get("rope_dims", size or get("head_size"))
    inverse, scale = frequencies(n, get)
    angle = np.arange(len(x))[:, None, None] * inverse
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    a, b = (x[..., 0:n:2], x[..., 1:n:2]) if get("rope") == "adjacent" else (x[..., :n // 2], x[..., n // 2:n])
    a, b = a * c - b * s, a * s + b * c
    turned = np.stack([a, b], -1).reshape(*a.shape[:-1], n) if get("rope") == "adjacent" else np.concatenate([a, b], -1)
    return np.concatenate([turned, x[..., n:]], -1)


def frequencies(n, get):
    """Of each pair, and the factor on what is rotated."""
    theta, kind = get("theta", 10000.0), get("rope_scaling", "none")
    inverse = theta ** (-np.arange(0, n, 2) / n)
    if kind == "none":
        return inverse, 1.0
    factor, original = get("rope_factor"), get("rope_original_context")
    if kind == "linear":
        return inverse / factor, 1.0
    if kind == "llama3":
        turns, low, high = original * inverse / (2 * math.pi), get("rope_low_freq_factor"), get("rope_high_freq_factor")
        keep = np.clip((turns - low) / (high - low), 0, 1)
        return inverse * (keep + (1 - keep) / factor), 1.0
    assert kind == "yarn"
    dim = lambda turns: n * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low = max(math.floor(dim(get("rope_beta_fast", 32))), 0)
    high = min(math.ceil(dim(get("rope_beta_slow", 1))), n - 1)
    keep = 1 - np.clip((np.arange(n // 2) - low) / max(high - low, 0.001), 0, 1)
    return inverse * (keep + (1 - keep) / factor), get("rope_mscale", 0.1 * math.log(factor) + 1)


def erf(x):
    return np.vectorize(math.erf)(x)


ACTIVATIONS = {"silu": lambda x: x / (1 + np.exp(-x)), "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
               "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
               "relu": lambda x: np.maximum(x, 0), "relu2": lambda x: np.maximum(x, 0) ** 2}
