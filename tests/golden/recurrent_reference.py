# SPDX-License-Identifier: MIT
"""The recurrent models of tools/folio/from_fla.py as their papers write them: one token after the other, in float64.

Nothing here is fast or chunked, and nothing is shared with the converter but the names of tensors. A layer takes one token's
vector and gives one back; it keeps what it must in plain arrays. Log-linear attention over Mamba-2 is the double sum of its
definition. W(name) is a tensor of the layer.
"""
import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.logaddexp(x, 0)


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def l2(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


class Conv:
    """Causal, one filter a channel, then SiLU."""

    def __init__(self, w, bias=None):
        self.w, self.bias, self.past = w[:, 0, :], 0 if bias is None else bias, np.zeros((w.shape[2], w.shape[0]))

    def __call__(self, x):
        self.past = np.concatenate([self.past[1:], x[None]])
        return silu((self.past.T * self.w).sum(1) + self.bias)


class Convs:
    def __init__(self, W, names, use=True):
        self.convs = {n: Conv(W(n + "_conv1d.weight")) if use else silu for n in names}

    def __call__(self, name, x):
        return self.convs[name](x) if name in self.convs else x


def level(t, s):
    return 0 if t == s else 1 + (t ^ s).bit_length() - 1


class Levels:
    """The matrices of a Fenwick tree over the tokens, each changed by every token (log-linear gated DeltaNet)."""

    def __init__(self):
        self.t, self.S = 0, {}

    def step(self, change, new):
        if self.t:
            j = (self.t & -self.t).bit_length() - 1
            self.S[j + 1] = sum(self.S.pop(m) for m in list(self.S) if m <= j)
        self.S = {m: change(S) for m, S in self.S.items()}
        self.S[0] = new
        self.t += 1
        return self.S


class GatedDelta:
    def __init__(self, c, W, levels=0):
        self.c, self.W, self.levels = c, W, levels
        self.H, self.K = c["num_heads"], c["head_dim"]
        self.Hv, self.V = c.get("num_v_heads") or self.H, int(c["head_dim"] * c["expand_v"])
        self.convs = Convs(W, "qkv", c.get("use_short_conv", True))
        self.S = np.zeros((self.Hv, self.K, self.V))
        self.trees = [Levels() for _ in range(self.Hv)]

    def decays(self, x):
        g = -np.exp(self.W("A_log")) * softplus(self.W("a_proj.weight") @ x + self.W("dt_bias"))
        return np.repeat(np.exp(g)[:, None], self.K, 1)

    def step(self, x):
        c, W = self.c, self.W
        q, k, v = (self.convs(n, W(n + "_proj.weight") @ x) for n in "qkv")
        q, k, v = l2(q.reshape(self.H, self.K)), l2(k.reshape(self.H, self.K)), v.reshape(self.Hv, self.V)
        beta, d = sigmoid(W("b_proj.weight") @ x) * (2 if c.get("allow_neg_eigval") else 1), self.decays(x)
        if self.levels:
            lam = softplus(W("L") * (W("l_proj.weight") @ x).reshape(self.Hv, self.levels))
        o = np.zeros((self.Hv, self.V))
        for h in range(self.Hv):
            g = h // (self.Hv // self.H)
            kk = np.outer(k[g], k[g])
            if self.levels:
                parts = self.trees[h].step(lambda S: d[h][:, None] * (S - beta[h] * kk @ S), beta[h] * np.outer(k[g], v[h]))
                o[h] = sum(lam[h][m] * (q[g] @ S) for m, S in parts.items() if m < self.levels)
                continue
            S = d[h][:, None] * self.S[h]
            self.S[h] = S + np.outer(k[g], beta[h] * (v[h] - k[g] @ S))
            o[h] = q[g] @ self.S[h] * self.K ** -0.5
        o = rms(o, W("o_norm.weight"), c["norm_eps"])
        return W("o_proj.weight") @ (self.gate(o, x) if self.gated() else o).reshape(-1)

    def gated(self):
        return self.c.get("use_gate", True)

    def gate(self, o, x):
        return o * silu(self.W("g_proj.weight") @ x).reshape(o.shape)


class Kda(GatedDelta):
    def decays(self, x):
        f = self.W("f_proj.1.weight") @ (self.W("f_proj.0.weight") @ x) + self.W("dt_bias")
        return np.exp(-np.exp(self.W("A_log"))[:, None] * softplus(f).reshape(self.Hv, self.K))

    def gated(self):
        return True

    def gate(self, o, x):
        return o * sigmoid(self.W("g_proj.1.weight") @ (self.W("g_proj.0.weight") @ x) + self.W("g_proj.1.bias")).reshape(o.shape)


class Delta(GatedDelta):
    def __init__(self, c, W):
        sizes = {"head_dim": c["hidden_size"] * c["expand_k"] / c["num_heads"]}
        assert sizes["head_dim"] == int(sizes["head_dim"])
        super().__init__(c | {"head_dim": int(sizes["head_dim"]), "expand_v": c["expand_v"] / c["expand_k"]}, W)

    def decays(self, x):
        return np.ones((self.Hv, self.K))

    def gated(self):
        return self.c.get("use_gate", False)


class KeyValue:
    """Linear attention, RetNet, GLA."""

    def __init__(self, c, W, kind):
        self.c, self.W, self.kind = c, W, kind
        self.H, self.G = c["num_heads"], c.get("num_kv_heads") or c["num_heads"]
        self.K, self.V = int(c["hidden_size"] * c["expand_k"]) // self.H, int(c["hidden_size"] * c["expand_v"]) // self.H
        self.S, self.z, self.t = np.zeros((self.H, self.K, self.V)), np.zeros((self.H, self.K)), 0

    def features(self, x):
        kind = self.c.get("feature_map")
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) if kind == "elu" else np.maximum(x, 0) if kind == "relu" else x

    def turn(self, x):
        n = self.K // 2
        a = self.t * 10000.0 ** (-np.arange(n) / n)
        return np.concatenate([x[:, :n] * np.cos(a) - x[:, n:] * np.sin(a), x[:, :n] * np.sin(a) + x[:, n:] * np.cos(a)], 1)

    def step(self, x):
        c, W, times = self.c, self.W, self.H // self.G
        many = lambda y, size: np.repeat(y.reshape(self.G, size), times, 0)
        q, k = (W("q_proj.weight") @ x).reshape(self.H, self.K), many(W("k_proj.weight") @ x, self.K)
        v, d = many(W("v_proj.weight") @ x, self.V), np.ones((self.H, self.K))
        q, k = self.features(q), self.features(k)
        if self.kind == "retnet":
            q, k, d = self.turn(q), self.turn(k), d * (1 - 2.0 ** (-5 - np.arange(self.H)))[:, None]
        if self.kind == "gla":
            f = W("gk_proj.1.weight") @ (W("gk_proj.0.weight") @ x) + W("gk_proj.1.bias")
            d = np.exp(-softplus(-many(f, self.K)) / 16)
        self.t += 1
        self.S = d[:, :, None] * self.S + k[:, :, None] * v[:, None, :]
        self.z = d * self.z + k
        scale = self.K ** -0.5
        o = scale * np.einsum("hk,hkv->hv", q, self.S)
        if c.get("norm_feature_map"):
            o = o / (scale * (q * self.z).sum(1) + 1e-10)[:, None]
        if self.kind == "linear":
            return W("o_proj.weight") @ rms(o, W("norm.weight"), c["norm_eps"]).reshape(-1)
        o = rms(o, W("g_norm_swish_gate.weight"), c["norm_eps"]) * silu(W("g_proj.weight") @ x).reshape(self.H, self.V)
        return W("o_proj.weight") @ o.reshape(-1)


class Mesa:
    def __init__(self, c, W):
        self.c, self.W, self.H, self.D = c, W, c["num_heads"], c["head_dim"]
        self.convs = Convs(W, "qk")
        self.Hkk, self.Hkv = np.zeros((self.H, self.D, self.D)), np.zeros((self.H, self.D, self.D))

    def step(self, x):
        c, W = self.c, self.W
        q, k, v = (self.convs(n, W(n + "_proj.weight") @ x).reshape(self.H, self.D) for n in "qkv")
        q, k = l2(q), l2(k)
        d, beta = sigmoid(W("a_proj.weight") @ x + W("a_proj.bias")), sigmoid(W("b_proj.weight") @ x + W("b_proj.bias"))
        ridge = (softplus(W("lambda_params")) + c["lambda_lower_bound"]).reshape(self.H, self.D)
        o = np.zeros((self.H, self.D))
        for h in range(self.H):
            self.Hkk[h] = d[h] * self.Hkk[h] + beta[h] * np.outer(k[h], k[h])
            self.Hkv[h] = d[h] * self.Hkv[h] + beta[h] * np.outer(k[h], v[h])
            o[h] = np.linalg.solve(self.Hkk[h] + np.diag(ridge[h]), q[h]) @ self.Hkv[h]
        o = rms(o, W("o_norm.weight"), c["norm_eps"])
        if c.get("use_output_gate"):
            o = o * silu(W("g_proj.weight") @ x).reshape(o.shape)
        return W("o_proj.weight") @ o.reshape(-1)


class Mamba:
    """Mamba-2, and with levels its log-linear form: the double sum over all tokens so far."""

    def __init__(self, c, W, levels=0):
        self.c, self.W, self.levels = c, W, levels
        self.I, self.P, self.N, self.G = c["expand"] * c["hidden_size"], c["head_dim"], c["state_size"], c["n_groups"]
        self.H = self.I // self.P
        self.conv = Conv(W("conv1d.weight"), W("conv1d.bias"))
        self.S, self.past = np.zeros((self.H, self.N, self.P)), []

    def step(self, x):
        W, I, GN, H = self.W, self.I, self.G * self.N, self.H
        z, xbc, dt, dl = np.split(W("in_proj.weight") @ x, np.cumsum([I, I + 2 * GN, H]))
        xs, B, C = np.split(self.conv(xbc), np.cumsum([I, GN]))
        xs, times = xs.reshape(H, self.P), H // self.G
        B, C = np.repeat(B.reshape(self.G, self.N), times, 0), np.repeat(C.reshape(self.G, self.N), times, 0)
        dt = softplus(dt + W("dt_bias"))
        g, v = -np.exp(W("A_log")) * dt, dt[:, None] * xs
        if self.levels:
            lam = softplus(W("L") * dl.reshape(H, self.levels))
            self.past = [(k, u, total + g) for k, u, total in self.past] + [(B, v, np.zeros(H))]
            o, t = np.zeros((H, self.P)), len(self.past) - 1
            for s, (k, u, total) in enumerate(self.past):
                o += (lam[:, level(t, s)] * np.exp(total) * (C * k).sum(1))[:, None] * u
        else:
            self.S = np.exp(g)[:, None, None] * self.S + B[:, :, None] * v[:, None, :]
            o = np.einsum("hn,hnp->hp", C, self.S)
        y = ((o + W("D")[:, None] * xs).reshape(-1) * silu(z)).reshape(self.G, -1)
        return W("out_proj.weight") @ rms(y, W("norm.weight").reshape(self.G, -1), self.c["norm_eps"]).reshape(-1)


class Attention:
    def __init__(self, c, W):
        a = c["attn"]
        self.W, self.H, self.G = W, a["num_heads"], a.get("num_kv_heads") or a["num_heads"]
        self.D, self.past = c["hidden_size"] // self.H, []

    def step(self, x):
        t, n = len(self.past), self.D // 2
        a = t * 10000.0 ** (-np.arange(n) / n)
        turn = lambda y: np.concatenate([y[:, :n] * np.cos(a) - y[:, n:] * np.sin(a), y[:, :n] * np.sin(a) + y[:, n:] * np.cos(a)], 1)
        q, k, v = ((self.W(m + "_proj.weight") @ x).reshape(-1, self.D) for m in "qkv")
        self.past.append((turn(k), v))
        o, times = [], self.H // self.G
        for h, row in enumerate(turn(q)):
            s = np.array([row @ k[h // times] for k, _ in self.past]) * self.D ** -0.5
            p = np.exp(s - s.max())
            o.append(sum(w * v[h // times] for w, (_, v) in zip(p / p.sum(), self.past)))
        return self.W("o_proj.weight") @ np.concatenate(o)


LAYERS = {
    "gated_deltanet": GatedDelta, "h_gated_deltanet": lambda c, W: GatedDelta(c, W, 15), "kda": Kda, "delta_net": Delta,
    "gla": lambda c, W: KeyValue(c, W, "gla"), "retnet": lambda c, W: KeyValue(c, W, "retnet"),
    "linear_attn": lambda c, W: KeyValue(c, W, "linear"), "mesa_net": Mesa, "mamba2": Mamba,
    "log_linear_mamba2": lambda c, W: Mamba(c, W, 15),
}


class Model:
    """step(token) gives the logits of what follows."""

    def __init__(self, config, tensors):
        self.c, self.tensors = config, {n: t.astype(np.float64) for n, t in tensors.items()}
        self.mamba = "mamba2" in config["model_type"]
        self.top = "backbone." if self.mamba else "model."
        self.layers = []
        for i in range(config["num_hidden_layers"]):
            at = f"{self.top}layers.{i}.{'mixer' if self.mamba else 'attn'}."
            kind = Attention if i in (config.get("attn") or {}).get("layers", []) else LAYERS[config["model_type"]]
            self.layers.append(kind(config, lambda name, at=at: self.tensors[at + name]))

    def step(self, token):
        t, eps = self.tensors, self.c["norm_eps"]
        norm = lambda x, name: rms(x, t[self.top + name], eps)
        x = t[self.top + "embeddings.weight"][token]
        for i, layer in enumerate(self.layers):
            at = f"layers.{i}."
            first = "norm" if self.c["model_type"] == "mamba2" else "mixer_norm" if self.mamba else "attn_norm"
            x = x + layer.step(norm(x, f"{at}{first}.weight"))
            if f"{self.top}{at}mlp.up_proj.weight" in t:
                m, y = f"{self.top}{at}mlp.", norm(x, f"{at}mlp_norm.weight")
                x = x + t[m + "down_proj.weight"] @ (silu(t[m + "gate_proj.weight"] @ y) * (t[m + "up_proj.weight"] @ y))
        return t["lm_head.weight"] @ norm(x, "norm_f.weight" if self.mamba else "norm.weight")
