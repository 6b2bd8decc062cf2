# SPDX-License-Identifier: MIT
"""Recurrent models in Hugging Face folders: flash-linear-attention's (and HanGuo97's) names, and transformers' Mamba-2.

A family is a function that reads config.json and says for each layer which profile of models/mixers/recurrent.h it has and which
tensors of the source it is made of. fla's hybrids, whose `attn` names some layers of softmax attention, are such lists, too.
Left of each function stand the defaults of the family's config class.
"""
import math
from dataclasses import dataclass, field

import numpy as np

from . import ConvertError
from .decoder import Part, Wanted


@dataclass
class Layer:
    profile: dict                                # mixer.N.* keys
    wanted: list                                 # Wanted, without the layer's prefix


@dataclass
class Recurrent:
    """Stands where a Decoder stands: sizes, metadata and the list of tensors."""
    dim: int
    layers: int
    vocab: int
    context: int
    eps: float
    own_head: bool
    names: dict                                  # embed, norm_mix, norm_ffn, norm_out, mlp: with {i}
    mix: list                                    # Layer
    ffn: int = 0                                 # 0: none
    act: str = "silu"
    name: str = ""
    experts: object = None                       # experts.Experts of the layers that have such
    sparse: list = field(default_factory=list)   # per layer, whether it has
    less_one: bool = False                       # the source's norms of layers hold their weights less 1

    def check(self):
        if self.experts:
            self.experts.check()
        for key in ("dim", "layers", "vocab", "context"):
            n, most = getattr(self, key), 2**16 if key == "layers" else 2**31
            if not isinstance(n, int) or not 0 < n < most:
                raise ConvertError(f"{key} is {n}, expected an integer from 1 to {most - 1}")
        if not isinstance(self.eps, (int, float)) or not 0 <= self.eps < 1:
            raise ConvertError(f"the norm's epsilon is {self.eps}")
        for profile in (layer.profile for layer in self.mix):
            if profile.get("levels") and 2 ** (profile["levels"] - 1) < self.context:
                raise ConvertError(f"the tables of {profile['levels']} levels end after {2 ** (profile['levels'] - 1)} tokens, and the model's "
                                   f"max_position_embeddings is {self.context}")
        return self

    def metadata(self):
        meta = {"arch": "decoder", "name": self.name, "dim": self.dim, "layers": self.layers, "vocab": self.vocab,
                "context": self.context, "norm.kind": "rms", "norm.eps": float(self.eps)}
        profiles = []
        for layer in self.mix:
            if layer.profile not in profiles:
                profiles.append(layer.profile)
        for i, profile in enumerate(profiles):
            meta |= {f"mixer.{i}.{key}": value for key, value in profile.items()}
        dense = {"kind": "dense", "dim": self.ffn, "gated": 1, "act": self.act} if self.ffn else {"kind": "none"}
        ffns = [self.experts.metadata() if sparse else dense for sparse in (self.sparse or [False] * self.layers)]
        kinds = [ffn for i, ffn in enumerate(ffns) if ffn not in ffns[:i]]
        for i, ffn in enumerate(kinds):
            meta |= {f"ffn.{i}.{key}": value for key, value in ffn.items()}
        meta["layer.mixer"] = [profiles.index(layer.profile) for layer in self.mix]
        meta["layer.ffn"] = [kinds.index(ffn) for ffn in ffns]
        return meta

    def wanted(self):
        C, F = self.dim, self.ffn
        name = lambda part, i=0: self.names[part].format(i=i)
        norm = lambda ours, theirs: one_more(ours, theirs, C) if self.less_one else vector(ours, theirs, C)
        out = [Wanted("embed.weight", (self.vocab, C), [Part(name("embed"), (self.vocab, C))])]
        for i, layer in enumerate(self.mix):
            out.append(norm(f"layer.{i}.norm_mix.weight", name("norm_mix", i)))
            out += [Wanted(f"layer.{i}.mix.{w.name}", w.shape, w.parts, w.matrix, w.make) for w in layer.wanted]
            if self.sparse and self.sparse[i]:
                out.append(norm(f"layer.{i}.norm_ffn.weight", name("norm_ffn", i)))
                out += self.experts.wanted(f"layer.{i}.ffn.", i, C)
            elif F:
                mlp = name("mlp", i)
                out += [norm(f"layer.{i}.norm_ffn.weight", name("norm_ffn", i)),
                        Wanted(f"layer.{i}.ffn.gate.weight", (F, C), [Part(mlp + "gate_proj.weight", (F, C))]),
                        Wanted(f"layer.{i}.ffn.up.weight", (F, C), [Part(mlp + "up_proj.weight", (F, C))]),
                        Wanted(f"layer.{i}.ffn.down.weight", (C, F), [Part(mlp + "down_proj.weight", (C, F))])]
        out.append(norm("norm_out.weight", name("norm_out")))
        if self.own_head:
            out.append(Wanted("head.weight", (self.vocab, C), [Part("lm_head.weight", (self.vocab, C))]))
        return out


# ---- pieces of a layer: `at` is the prefix of its names

def matrix(ours, parts, columns):
    """parts: (name, rows) or (name, rows of that tensor, (low, high)), stacked."""
    stack = [Part(p[0], (p[1], columns), p[2] if len(p) > 2 else None) for p in parts]
    return Wanted(ours, (sum(p.rows[1] - p.rows[0] if p.rows else p.shape[0] for p in stack), columns), stack)


def vector(ours, name, n):
    return Wanted(ours, (n,), [Part(name, (n,))], False)


def one_more(ours, name, n):
    """Of a norm that multiplies by 1 + w."""
    return made(ours, (n,), [Part(name, (n,))], lambda w: 1 + w)


def made(ours, shape, parts, make):
    return Wanted(ours, shape, parts, False, make)


def convolutions(at, widths, taps):
    """One convolution over all their channels, [taps, channels]; fla's are [channels, 1, taps]."""
    parts = [Part(f"{at}{name}_conv1d.weight", (n, 1, taps)) for name, n in widths]
    return made("conv.weight", (taps, sum(n for _, n in widths)), parts, lambda *w: np.concatenate(w)[:, 0, :].T)


def repeated(name, heads, size, times):
    """The rows of a projection whose heads serve `times` query heads each, one copy for every one of these."""
    return [(name, heads * size, (h * size, (h + 1) * size)) for h in range(heads) for _ in range(times)]


def negative_exp(ours, name, n):
    return made(ours, (n,), [Part(name, (n,))], lambda a: -np.exp(a))


def constant(ours, values):
    values = np.asarray(values, np.float32)
    return made(ours, values.shape, [], lambda: values)


def softplus(x):
    return np.logaddexp(x.astype(np.float64), 0)


def of_each_layer(config, key, layers, known, absent):
    """Per layer its entry of the list `key`; absent: the list without one."""
    kinds = config.get(key) or absent
    if len(kinds) != layers or set(kinds) - set(known):
        raise ConvertError(f"'{config.path}': {key} has {len(kinds)} entries of {', '.join(sorted(map(str, set(kinds))))}; expected "
                           f"{layers} of {' and '.join(known)}")
    return kinds


class Family:
    """What the functions below share: sizes of config.json, checked."""

    def __init__(self, config):
        self.config, self.dim = config, config.need("hidden_size")

    def size(self, key, factor):
        n = self.dim * self.config.get(factor, 1.0)
        heads = self.config.need("num_heads")
        if n != int(n) or int(n) % heads:
            raise ConvertError(f"'{self.config.path}': {factor} gives {n} {key}s for {heads} heads")
        return int(n) // heads

    def flag(self, key):
        return bool(self.config.get(key, False))

    def shared(self, heads, groups):
        if heads % groups:
            raise ConvertError(f"'{self.config.path}': {heads} heads cannot share {groups} key heads")


def _normed(c, profile, layer, at, size, names, gate):
    """Output norm of each head, and the gate behind it; the parts of in.weight that the gate adds."""
    name = names[0] if gate else names[1]
    layer.append(vector("norm.weight", at + name, size))
    profile |= {"norm_eps": float(c.get("norm_eps"))} | ({"gate": "after"} if gate else {})


def _gated_delta(f, at, levels=0):
    c = f.config
    H, Hv, K = c.need("num_heads"), c.get("num_v_heads", c.need("num_heads")), c.need("head_dim")
    V = int(K * c.get("expand_v"))
    q, v = H * K, Hv * V
    f.shared(Hv, H)
    profile = {"kind": "log_linear" if levels else "linear", "heads": Hv, "groups": H, "key_size": K, "value_size": V, "qk_norm": "l2",
               "act": "silu", "decay": "head", "beta": 1}
    layer, inside = [], [(at + "q_proj.weight", q), (at + "k_proj.weight", q), (at + "v_proj.weight", v)]
    if f.flag("use_short_conv"):
        profile["conv"] = c.need("conv_size")
        layer.append(convolutions(at, (("q", q), ("k", q), ("v", v)), profile["conv"]))
    if f.flag("allow_neg_eigval"):
        profile["beta_factor"] = 2.0
    gates = [(at + "a_proj.weight", Hv), (at + "b_proj.weight", Hv)]
    if levels:
        profile["levels"] = levels
        gates.append((at + "l_proj.weight", Hv * levels))
        layer.append(made("level.weight", (Hv * levels,), [Part(at + "L", (Hv, levels))], lambda x: x.reshape(-1)))
    if f.flag("use_gate"):
        inside.append((at + "g_proj.weight", v))
    _normed(c, profile, layer, at, V, ("o_norm.weight", "o_norm.weight"), f.flag("use_gate"))
    layer += [matrix("in.weight", inside, f.dim), matrix("gates.weight", gates, f.dim), matrix("out.weight", [(at + "o_proj.weight", f.dim)], v),
              negative_exp("decay.rate", at + "A_log", Hv), vector("decay.bias", at + "dt_bias", Hv)]
    return Layer(profile, layer)


def _log_linear_gated_delta(f, at):
    return _gated_delta(f, at, f.config.get("num_levels", 15))


def kda(at, dim, sizes, taps, low, rates):
    """A layer of Kimi delta attention but for what publishers do differently; sizes: heads, key heads, K, V. low: what the two products are
    called that decays come from, and the two of the output gate. rates: the shape of A_log. taps: 0 without a convolution."""
    H, G, K, V = sizes
    q, v = G * K, H * V
    profile = {"kind": "linear", "heads": H, "groups": G, "key_size": K, "value_size": V, "qk_norm": "l2", "act": "silu", "decay": "channel",
               "beta": 1, "gate": "after", "gate_act": "sigmoid"} | ({"conv": taps} if taps else {})
    layer = [vector("norm.weight", at + "o_norm.weight", V)]
    if taps:
        layer.append(convolutions(at, (("q", q), ("k", q), ("v", v)), taps))
    shapes = (("decay.down", V, dim), ("decay.up", H * K, V), ("gate.down", V, dim), ("gate.up", v, V))
    layer += [matrix("in.weight", [(at + "q_proj.weight", q), (at + "k_proj.weight", q), (at + "v_proj.weight", v)], dim),
              matrix("gates.weight", [(at + "b_proj.weight", H)], dim), matrix("out.weight", [(at + "o_proj.weight", dim)], v),
              *(matrix(ours + ".weight", [(f"{at}{name}.weight", rows)], columns) for name, (ours, rows, columns) in zip(low, shapes)),
              made("decay.rate", (H * K,), [Part(at + "A_log", rates)], lambda a: np.repeat(-np.exp(a.reshape(-1)), K)),
              vector("decay.bias", at + "dt_bias", H * K)]
    return Layer(profile, layer)


def _kda(f, at):
    c = f.config
    c.refuse("safe_gate", False)
    c.refuse("lower_bound", None)
    H, Hv, K = c.need("num_heads"), c.get("num_v_heads", c.need("num_heads")), c.need("head_dim")
    V = int(K * c.get("expand_v"))
    f.shared(Hv, H)
    layer = kda(at, f.dim, (Hv, H, K, V), c.need("conv_size") if f.flag("use_short_conv") else 0, ("f_proj.0", "f_proj.1", "g_proj.0", "g_proj.1"),
                (Hv,))
    layer.profile["norm_eps"] = float(c.get("norm_eps"))
    if f.flag("allow_neg_eigval"):
        layer.profile["beta_factor"] = 2.0
    layer.wanted.append(vector("gate.up.bias", at + "g_proj.1.bias", Hv * V))
    return layer


def _delta(f, at):
    c = f.config
    c.refuse("qk_norm", "l2")
    c.refuse("qk_activation", "silu")
    c.refuse("use_beta", True)
    H, K, V = c.need("num_heads"), f.size("key", "expand_k"), f.size("value", "expand_v")
    profile = {"kind": "linear", "heads": H, "key_size": K, "value_size": V, "qk_norm": "l2", "act": "silu", "decay": "none", "beta": 1}
    layer, inside = [], [(at + "q_proj.weight", H * K), (at + "k_proj.weight", H * K), (at + "v_proj.weight", H * V)]
    if f.flag("use_short_conv"):
        profile["conv"] = c.need("conv_size")
        layer.append(convolutions(at, (("q", H * K), ("k", H * K), ("v", H * V)), profile["conv"]))
    if f.flag("allow_neg_eigval"):
        profile["beta_factor"] = 2.0
    if f.flag("use_gate"):
        inside.append((at + "g_proj.weight", H * V))
    _normed(c, profile, layer, at, V, ("o_norm.weight", "o_norm.weight"), f.flag("use_gate"))
    layer += [matrix("in.weight", inside, f.dim), matrix("gates.weight", [(at + "b_proj.weight", H)], f.dim),
              matrix("out.weight", [(at + "o_proj.weight", f.dim)], H * V)]
    return Layer(profile, layer)


def _keys_and_values(f, at, profile, layer):
    """What GLA, RetNet and linear attention have alike: q, k, v with kv heads shared, an optional convolution, gate and norm."""
    c = f.config
    H, K, V = c.need("num_heads"), f.size("key", "expand_k"), f.size("value", "expand_v")
    G = c.get("num_kv_heads", H)
    if not isinstance(G, int) or G < 1 or H % G:
        raise ConvertError(f"'{c.path}': {H} heads cannot share num_kv_heads {G}")
    profile |= {"kind": "linear", "heads": H, "key_size": K, "value_size": V}
    inside = [(at + "q_proj.weight", H * K)]
    for name, size in (("k", K), ("v", V)):
        inside += repeated(f"{at}{name}_proj.weight", G, size, H // G)
    if c.get("use_short_conv", False):
        if G != H:
            raise ConvertError(f"'{c.path}': use_short_conv with num_kv_heads {G} is not supported")
        profile |= {"conv": c.need("conv_size"), "act": "silu"}
        layer.append(convolutions(at, (("q", H * K), ("k", H * K), ("v", H * V)), profile["conv"]))
    gate = c.get("use_output_gate", False)
    if gate:
        inside.append((at + "g_proj.weight", H * V))
    c.refuse("elementwise_affine", True)
    layer += [matrix("in.weight", inside, f.dim), matrix("out.weight", [(at + "o_proj.weight", f.dim)], H * V)]
    return H, G, K, V, gate


def _gla(f, at):
    c = f.config
    for key, ok in (("feature_map", None), ("clamp_min", None), ("use_gk", True), ("use_gv", False)):
        c.refuse(key, ok)
    profile, layer = {"decay": "channel", "decay_sign": -1.0}, []
    H, G, K, V, gate = _keys_and_values(f, at, profile, layer)
    rank, factor = c.get("gate_low_rank_dim", 16), c.get("gate_logit_normalizer", 16)
    fused = gate and c.get("fuse_norm", True)
    _normed(c, profile, layer, at, V, ("g_norm_swish_gate.weight" if fused else "g_norm.weight", "g_norm.weight"), gate)
    up = repeated(at + "gk_proj.1.weight", G, K, H // G)
    bias = made("decay.up.bias", (H * K,), [Part(at + "gk_proj.1.bias", (G * K,))], lambda b: np.repeat(b.reshape(G, K), H // G, axis=0).reshape(-1))
    layer += [matrix("decay.down.weight", [(at + "gk_proj.0.weight", rank)], f.dim), matrix("decay.up.weight", up, rank), bias,
              constant("decay.rate", np.full(H * K, -1.0 / factor))]
    return Layer(profile, layer)


def _retnet(f, at):
    c = f.config
    c.refuse("feature_map", None)
    profile, layer = {"decay": "constant", "rope": "half", "theta": 10000.0}, []
    H, _, _, V, gate = _keys_and_values(f, at, profile, layer)
    fused = gate and c.get("fuse_norm", True)
    _normed(c, profile, layer, at, V, ("g_norm_swish_gate.weight" if fused else "g_norm.weight", "g_norm.weight"), gate)
    layer.append(constant("decay.log", np.log1p(-np.exp2(-5.0 - np.arange(H)))))
    return Layer(profile, layer)


FEATURES = {"elu": "elu1", "relu": "relu", "identity": "none"}


def _linear_attn(f, at):
    c = f.config
    features = c.get("feature_map")
    if features not in FEATURES:
        raise ConvertError(f"'{c.path}': feature_map = {features!r} is not supported; known are {', '.join(sorted(FEATURES))}")
    for key in ("norm_q", "norm_k"):
        c.refuse(key, False)
    profile, layer = {"decay": "none", "features": FEATURES[features], "normalise": int(c.get("norm_feature_map", False))}, []
    if features == "identity" and profile["normalise"]:
        raise ConvertError(f"'{c.path}': norm_feature_map with feature_map 'identity' divides by sums of any sign")
    _, _, _, V, _ = _keys_and_values(f, at, profile, layer)
    _normed(c, profile, layer, at, V, ("norm.weight", "norm.weight"), False)
    return Layer(profile, layer)


def _mesa(f, at):
    c = f.config
    H, K = c.need("num_heads"), c.need("head_dim")
    n, low = H * K, float(c.get("lambda_lower_bound"))
    profile = {"kind": "mesa", "heads": H, "key_size": K, "value_size": K, "conv": c.need("conv_size"), "conv_values": 0, "act": "silu",
               "qk_norm": "l2", "decay": "head", "decay_sign": -1.0, "beta": 1, "scale": 1.0}
    if (tolerance := c.get("cg_tolerance")) is not None:   # our own key: the solver's, 1e-4 without it
        profile["tolerance"] = float(tolerance)
    layer, inside = [], [(f"{at}{name}_proj.weight", n) for name in "qkv"]
    gate = f.flag("use_output_gate")
    if gate:
        inside.append((at + "g_proj.weight", n))
    _normed(c, profile, layer, at, K, ("o_norm.weight", "o_norm.weight"), gate)
    biases = Wanted("gates.bias", (2 * H,), [Part(at + "a_proj.bias", (H,)), Part(at + "b_proj.bias", (H,))], False)
    layer += [matrix("in.weight", inside, f.dim), matrix("gates.weight", [(at + "a_proj.weight", H), (at + "b_proj.weight", H)], f.dim), biases,
              matrix("out.weight", [(at + "o_proj.weight", f.dim)], n), convolutions(at, (("q", n), ("k", n)), profile["conv"]),
              constant("decay.rate", np.full(H, -1.0)),
              made("ridge", (H, K), [Part(at + "lambda_params", (n,))], lambda x: (softplus(x) + low).reshape(H, K))]
    return Layer(profile, layer)


def _mamba(f, at, levels=0):
    """in_proj: z | x | B | C | Δ (| levels). Ours: q = C, k = B, v = x, z; and the gates."""
    c = f.config
    c.refuse("norm_before_gate", False)
    c.refuse("use_bias", False)
    c.refuse("rmsnorm", True)
    P, N, G = c.need("head_dim"), c.need("state_size"), c.need("n_groups")
    I = int(c.get("expand") * f.dim)
    H = c.get("num_heads", I // P)
    if H * P != I:
        raise ConvertError(f"'{c.path}': {H} heads of {P} are not expand x hidden_size = {I}")
    f.shared(H, G)
    whole = 2 * I + 2 * G * N + H + H * levels
    limits = c.get("time_step_limit", c.get("dt_limit", (0.0, math.inf)))
    low, high = (float(n["__float__"] if isinstance(n, dict) else n) for n in limits)   # transformers 5 writes infinity as an object
    taps = c.need("conv_kernel")
    rows = lambda begin, n: (at + "in_proj.weight", whole, (begin, begin + n))
    x, b, cc = 0, I, I + G * N
    channels = I + 2 * G * N
    turn = lambda w: np.concatenate([w[cc:cc + G * N], w[b:b + G * N], w[x:x + I]])
    profile = {"kind": "log_linear" if levels else "linear", "heads": H, "groups": G, "key_size": N, "value_size": P, "scale": 1.0, "conv": taps,
               "act": "silu", "decay": "head", "step": 1, "skip": 1, "gate": "before", "norm": "group", "norm_eps": float(c.get("norm_eps"))}
    if G > 1:
        profile["norm_groups"] = G
    if low > 0:
        profile["step_low"] = float(low)
    if high < math.inf:
        profile["step_high"] = float(high)
    layer = [matrix("in.weight", [rows(I + cc, G * N), rows(I + b, G * N), rows(I + x, I), rows(0, I)], f.dim),
             matrix("gates.weight", [rows(I + channels, H + H * levels)], f.dim), matrix("out.weight", [(at + "out_proj.weight", f.dim)], I),
             made("conv.weight", (taps, channels), [Part(at + "conv1d.weight", (channels, 1, taps))], lambda w: turn(w)[:, 0, :].T),
             negative_exp("decay.rate", at + "A_log", H), vector("decay.bias", at + "dt_bias", H), vector("norm.weight", at + "norm.weight", I)]
    if c.get("use_conv_bias", True):
        layer.append(made("conv.bias", (channels,), [Part(at + "conv1d.bias", (channels,))], turn))
    d = (I,) if f.flag("D_has_hdim") else (H,)
    layer.append(made("skip", (I,), [Part(at + "D", d)], lambda v: np.repeat(v, I // v.size)))
    if levels:
        profile["levels"] = levels
        layer.append(made("level.weight", (H * levels,), [Part(at + "L", (H, levels))], lambda v: v.reshape(-1)))
    return Layer(profile, layer)


def _log_linear_mamba(f, at):
    return _mamba(f, at, 15)


def _attention(f, at, attn):
    """A layer of softmax attention in a hybrid of fla."""
    c = f.config
    H = int(attn["num_heads"])
    G, D, window = int(attn.get("num_kv_heads") or H), f.dim // H, attn.get("window_size") or 0
    if f.dim % H or H % G:
        raise ConvertError(f"'{c.path}': attn has {H} heads, {G} kv heads for a width of {f.dim}")
    if attn.get("qkv_bias") or attn.get("qk_norm"):
        raise ConvertError(f"'{c.path}': attn with qkv_bias or qk_norm is not supported")
    profile = {"kind": "attention", "heads": H, "groups": G, "head_size": D, "rope": "half", "theta": float(attn.get("rope_theta") or 10000.0)}
    if window:
        profile["window"] = int(window)
    rows = [(at + "q_proj.weight", H * D), (at + "k_proj.weight", G * D), (at + "v_proj.weight", G * D)]
    return Layer(profile, [matrix("qkv.weight", rows, f.dim), matrix("out.weight", [(at + "o_proj.weight", f.dim)], H * D)])


FLA = {"embed": "model.embeddings.weight", "norm_out": "model.norm.weight", "norm_mix": "model.layers.{i}.attn_norm.weight",
       "norm_ffn": "model.layers.{i}.mlp_norm.weight", "mlp": "model.layers.{i}.mlp.", "mix": "model.layers.{i}.attn."}
MAMBA = {"embed": "backbone.embeddings.weight", "norm_out": "backbone.norm_f.weight", "norm_mix": "backbone.layers.{i}.norm.weight",
         "mix": "backbone.layers.{i}.mixer."}
LOG_MAMBA = MAMBA | {"norm_mix": "backbone.layers.{i}.mixer_norm.weight", "norm_ffn": "backbone.layers.{i}.mlp_norm.weight",
                     "mlp": "backbone.layers.{i}.mlp."}
COMMON = {"hidden_act": "swish", "norm_eps": 1e-6, "max_position_embeddings": 2048, "hidden_ratio": 4, "num_hidden_layers": 24,
          "conv_size": 4, "elementwise_affine": True, "vocab_size": 32000, "hidden_size": 2048}
DELTA = COMMON | {"use_short_conv": True, "allow_neg_eigval": False, "num_heads": 6, "head_dim": 256, "expand_v": 2.0, "use_gate": True}
MAMBA_DEFAULTS = COMMON | {"head_dim": 64, "state_size": 128, "expand": 2, "conv_kernel": 4, "n_groups": 1, "norm_eps": 1e-5,
                           "num_hidden_layers": 48, "use_conv_bias": True, "norm_before_gate": False, "rmsnorm": True, "use_bias": False,
                           "max_position_embeddings": 8192}

# model_type: (function, names, defaults)
FAMILIES = {
    "gated_deltanet": (_gated_delta, FLA, DELTA | {"num_hidden_layers": 21}),
    "h_gated_deltanet": (_log_linear_gated_delta, FLA, DELTA | {"num_hidden_layers": 21}),
    "kda": (_kda, FLA, DELTA | {"num_heads": 16, "head_dim": 128, "expand_v": 1.0, "safe_gate": False}),
    "delta_net": (_delta, FLA, DELTA | {"num_heads": 16, "expand_k": 1.0, "expand_v": 1.0, "use_gate": False, "qk_norm": "l2",
                                        "qk_activation": "silu", "use_beta": True}),
    "gla": (_gla, FLA, COMMON | {"num_heads": 4, "expand_k": 0.5, "expand_v": 1.0, "use_output_gate": True, "use_gk": True, "use_gv": False}),
    "retnet": (_retnet, FLA, COMMON | {"num_heads": 8, "expand_k": 1.0, "expand_v": 2.0, "use_output_gate": True, "hidden_ratio": 2}),
    "linear_attn": (_linear_attn, FLA, COMMON | {"num_heads": 4, "expand_k": 1.0, "expand_v": 1.0, "feature_map": "elementwise_product",
                                                 "norm_q": False, "norm_k": False}),
    "mesa_net": (_mesa, FLA, COMMON | {"num_heads": 16, "head_dim": 128, "lambda_lower_bound": 0.25}),
    "mamba2": (_mamba, MAMBA, MAMBA_DEFAULTS),
    "log_linear_mamba2": (_log_linear_mamba, LOG_MAMBA, MAMBA_DEFAULTS),
    "hattention": (_log_linear_mamba, LOG_MAMBA, MAMBA_DEFAULTS),
}


def _ffn(config, dim):
    if (n := config.get("intermediate_size")) is not None:
        return config.need("intermediate_size")
    n = int(dim * config.get("hidden_ratio") * 2 / 3)
    return (n + 255) // 256 * 256


def model(config, family):
    """The Recurrent of a config.json; `config` has the defaults of FAMILIES."""
    make, names, _ = FAMILIES[family]
    config.refuse("attnres_block_size", None)
    if "layer_norm_epsilon" in config.values:   # what transformers' Mamba-2 calls it
        config.values |= {"norm_eps": config.get("layer_norm_epsilon")}
    f = Family(config)
    layers, act, attn = config.layers(), config.act(), config.get("attn") or {}
    if not isinstance(attn, dict) or (attn and not isinstance(attn.get("layers"), list)):
        raise ConvertError(f"'{config.path}': attn = {attn!r}, expected an object with a list of layers")
    at = lambda i: names["mix"].format(i=i)
    mix = [_attention(f, at(i), attn) if i in attn.get("layers", []) else make(f, at(i)) for i in range(layers)]
    return Recurrent(dim=f.dim, layers=layers, vocab=config.need("vocab_size"), context=config.need("max_position_embeddings"),
                     eps=config.get("norm_eps"), own_head=not config.get("tie_word_embeddings", False), names=names, mix=mix,
                     ffn=_ffn(config, f.dim) if "mlp" in names else 0, act=act)
