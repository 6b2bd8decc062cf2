#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tiny recurrent models in tests/golden/hf with flash-linear-attention's names, and what recurrent_reference.py makes of them.

    python tests/golden/make_recurrent_golden.py [NAME ...]        needs numpy, safetensors; its output is committed

The files beside each checkpoint are those of make_golden.py. Weights are random and seeded, and scaled so that the logits spread and
greedy decoding has no near ties.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from recurrent_reference import Model
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent / "hf"
STEPS, MARGIN, VOCAB, DIM = 40, 0.01, 64, 32
BASE = {"vocab_size": VOCAB, "hidden_size": DIM, "num_hidden_layers": 2, "norm_eps": 1e-5, "intermediate_size": 48}
GDN = BASE | {"model_type": "gated_deltanet", "num_heads": 2, "head_dim": 16, "expand_v": 2.0, "conv_size": 4}
KV = BASE | {"num_heads": 2, "expand_k": 1.0, "expand_v": 1.0}
MAMBA = {"vocab_size": VOCAB, "hidden_size": DIM, "num_hidden_layers": 2, "norm_eps": 1e-5, "expand": 2, "head_dim": 16, "state_size": 24,
         "n_groups": 2, "conv_kernel": 4, "use_conv_bias": True}

# name: config, tokens of the prompt
CASES = {
    "gated_deltanet": (GDN, 140),
    "gated_deltanet_gva": (GDN | {"num_v_heads": 4, "expand_v": 1.0, "allow_neg_eigval": True, "use_gate": False}, 70),
    "hybrid": (GDN | {"num_hidden_layers": 3, "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2}}, 80),
    "h_gated_deltanet": (GDN | {"model_type": "h_gated_deltanet"}, 300),
    "kda": (GDN | {"model_type": "kda", "expand_v": 1.0}, 140),
    "delta_net": (KV | {"model_type": "delta_net", "use_gate": True, "conv_size": 4}, 70),
    "gla": (KV | {"model_type": "gla", "expand_k": 0.5, "num_heads": 4, "num_kv_heads": 2}, 140),
    "retnet": (KV | {"model_type": "retnet", "expand_v": 2.0}, 70),
    "linear_attn": (KV | {"model_type": "linear_attn", "feature_map": "elu", "norm_feature_map": True}, 70),
    "mesa_net": (GDN | {"model_type": "mesa_net", "lambda_lower_bound": 0.25, "use_output_gate": True, "cg_tolerance": 1e-7}, 140),
    "mamba2_fla": (MAMBA | {"model_type": "mamba2"}, 140),
    "log_linear_mamba2": (MAMBA | {"model_type": "log_linear_mamba2", "n_groups": 1, "intermediate_size": 48}, 300),
}


def shapes(c):
    """The tensors of a checkpoint."""
    kind, mamba = c["model_type"], "mamba2" in c["model_type"]
    top, mixer = ("backbone.", "mixer.") if mamba else ("model.", "attn.")
    yield top + "embeddings.weight", (VOCAB, DIM)
    for i in range(c["num_hidden_layers"]):
        at = f"{top}layers.{i}."
        yield at + ("norm" if kind == "mamba2" else "mixer_norm" if mamba else "attn_norm") + ".weight", (DIM,)
        attention = i in c.get("attn", {}).get("layers", [])
        for name, shape in attention_layer(c) if attention else layer(c, kind):
            yield at + mixer + name, shape
        if "intermediate_size" in c:
            yield at + "mlp_norm.weight", (DIM,)
            for name, shape in (("gate", (48, DIM)), ("up", (48, DIM)), ("down", (DIM, 48))):
                yield f"{at}mlp.{name}_proj.weight", shape
    yield top + ("norm_f" if mamba else "norm") + ".weight", (DIM,)
    yield "lm_head.weight", (VOCAB, DIM)


def attention_layer(c):
    n = c["attn"]["num_kv_heads"] * DIM // c["attn"]["num_heads"]
    return [("q_proj.weight", (DIM, DIM)), ("k_proj.weight", (n, DIM)), ("v_proj.weight", (n, DIM)), ("o_proj.weight", (DIM, DIM))]


def layer(c, kind):
    if "mamba2" in kind:
        I, N, H = 2 * DIM, c["n_groups"] * c["state_size"], 2 * DIM // c["head_dim"]
        levels = 15 if kind.startswith("log") else 0
        yield from [("in_proj.weight", (2 * I + 2 * N + H + H * levels, DIM)), ("conv1d.weight", (I + 2 * N, 1, 4)), ("conv1d.bias", (I + 2 * N,)),
                    ("dt_bias", (H,)), ("A_log", (H,)), ("D", (H,)), ("norm.weight", (I,)), ("out_proj.weight", (DIM, I))]
        if levels:
            yield "L", (H, levels)
        return
    H = c["num_heads"]
    if "head_dim" in c:
        q, v = H * c["head_dim"], (c.get("num_v_heads") or H) * int(c["head_dim"] * (1 if kind == "mesa_net" else c["expand_v"]))
    else:
        q, v = int(DIM * c["expand_k"]), int(DIM * c["expand_v"])
    Hv, G = c.get("num_v_heads") or H, c.get("num_kv_heads") or H
    yield from [("q_proj.weight", (q, DIM)), ("k_proj.weight", (q * G // H, DIM)), ("v_proj.weight", (v * G // H, DIM)), ("o_proj.weight", (DIM, v))]
    if "conv_size" in c:
        yield from [(n + "_conv1d.weight", (w, 1, 4)) for n, w in (("q", q), ("k", q), ("v", v)) if kind != "mesa_net" or n != "v"]
    if kind in ("gated_deltanet", "h_gated_deltanet"):
        yield from [("a_proj.weight", (Hv, DIM)), ("b_proj.weight", (Hv, DIM)), ("A_log", (Hv,)), ("dt_bias", (Hv,)), ("o_norm.weight", (v // Hv,))]
        if c.get("use_gate", True):
            yield "g_proj.weight", (v, DIM)
    if kind == "h_gated_deltanet":
        yield from [("l_proj.weight", (Hv * 15, DIM)), ("L", (Hv, 15))]
    if kind == "kda":
        K, V = c["head_dim"], v // Hv
        yield from [("f_proj.0.weight", (V, DIM)), ("f_proj.1.weight", (Hv * K, V)), ("b_proj.weight", (Hv, DIM)), ("A_log", (Hv,)),
                    ("dt_bias", (Hv * K,)), ("g_proj.0.weight", (V, DIM)), ("g_proj.1.weight", (v, V)), ("g_proj.1.bias", (v,)), ("o_norm.weight", (V,))]
    if kind == "delta_net":
        yield from [("b_proj.weight", (H, DIM)), ("g_proj.weight", (v, DIM)), ("o_norm.weight", (v // H,))]
    if kind == "mesa_net":
        yield from [("a_proj.weight", (H, DIM)), ("a_proj.bias", (H,)), ("b_proj.weight", (H, DIM)), ("b_proj.bias", (H,)), ("lambda_params", (q,)),
                    ("o_norm.weight", (v // H,)), ("g_proj.weight", (v, DIM))]
    if kind == "gla":
        yield from [("gk_proj.0.weight", (16, DIM)), ("gk_proj.1.weight", (q * G // H, 16)), ("gk_proj.1.bias", (q * G // H,))]
    if kind in ("gla", "retnet"):
        yield from [("g_norm_swish_gate.weight", (v // H,)), ("g_proj.weight", (v, DIM))]
    if kind == "linear_attn":
        yield "norm.weight", (v // H,)


def tensor(name, shape, random):
    x = random.standard_normal(shape)
    last = name.split(".")[-1]
    if last == "A_log":
        x = np.log(random.uniform(1, 8, shape))
    elif last == "dt_bias":
        x = np.log(np.expm1(np.exp(random.uniform(np.log(0.01), np.log(0.3), shape))))
    elif last in ("D", "L") or "norm" in name:
        x = 1 + 0.1 * x
    elif len(shape) == 1:
        x = 0.3 * x
    elif "embeddings" not in name:
        x = x * 1.4 / np.sqrt(shape[-1])
    return np.ascontiguousarray(x, np.float32)


def make(name):
    config, length = CASES[name]
    folder = OUT / name
    for seed in range(1, 200):
        random = np.random.default_rng(seed)
        tensors = {n: tensor(n, s, random) for n, s in shapes(config)}
        model = Model(config, tensors)
        prompt = random.integers(3, VOCAB, length)
        logits = np.stack([model.step(t) for t in prompt])
        ids, decode, last, margin = [], [], logits[-1], np.inf
        for _ in range(STEPS):
            best = np.sort(last)[-2:]
            margin = min(margin, best[1] - best[0])
            if margin <= MARGIN:
                break
            ids.append(int(last.argmax()))
            last = model.step(ids[-1])
            decode.append(last)
        if margin > MARGIN and len(set(ids)) > STEPS // 5:
            break
    else:
        raise SystemExit(f"{name}: no seed gives clear choices")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / "model.safetensors")
    (folder / "shape.json").write_text(json.dumps({"prompt": length, "vocab": VOCAB, "steps": STEPS}) + "\n")
    for file, data, kind in (("prompt.i32", prompt, np.int32), ("ids.i32", ids, np.int32), ("logits_prompt.f32", logits, np.float32),
                             ("logits_decode.f32", np.stack(decode), np.float32)):
        (folder / file).write_bytes(np.ascontiguousarray(data, kind).tobytes())
    print(f"{name}: seed {seed}, margin {margin:.3f}, logits' deviation {logits.std():.2f}, {sum(f.stat().st_size for f in folder.iterdir()):,} bytes")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or CASES:
        make(chosen)
