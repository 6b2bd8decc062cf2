# SPDX-License-Identifier: MIT
"""GGUF models: a table of their names and keys to ours, for each architecture.

q and k of "llama" are stored permuted, so that rope turns adjacent pairs; the others are as in PyTorch, halves apart. That is
metadata here, never a permutation: every row goes over as it is. What the .folio has no place for (keys, the order of
tensors) goes into the text "source.gguf", from which to_gguf.py restores the file.
"""
import json
import math

from . import ConvertError, gguf_file
from . import vocabulary_gguf as words
from .assemble import Model
from .decoder import Decoder

LAYER = "blk.{i}."
BASE = {"embed": "token_embd.weight", "head": "output.weight", "norm_out": "output_norm.weight",
        "norm_mix": LAYER + "attn_norm.weight", "norm_ffn": LAYER + "ffn_norm.weight", "out": LAYER + "attn_output.weight",
        "up": LAYER + "ffn_up.weight", "down": LAYER + "ffn_down.weight"}
APART = {"q": LAYER + "attn_q.weight", "k": LAYER + "attn_k.weight", "v": LAYER + "attn_v.weight",
         "q_norm": LAYER + "attn_q_norm.weight", "k_norm": LAYER + "attn_k_norm.weight"}
GATE = {"gate": LAYER + "ffn_gate.weight"}
FUSED = {"qkv": LAYER + "attn_qkv.weight"}
TABLES = {"llama": BASE | APART | GATE, "qwen2": BASE | APART | GATE, "qwen3": BASE | APART | GATE,
          "phi3": BASE | FUSED | {"gate_up": LAYER + "ffn_up.weight"},
          "gpt2": BASE | FUSED | {"positions": "position_embd.weight"}}
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3's scaling, as one divisor for each frequency


def load(path):
    file = gguf_file.read(path)
    if (parts := file.get("split.count", 1)) > 1:
        raise ConvertError(f"'{path}' is one of {parts} parts; join them first (llama-gguf-split --merge)")
    vocabulary = words.load(file)
    chat = file.get("tokenizer.chat_template", "")
    model = Model(path, vocabulary=vocabulary, chat=chat, tensors=file.tensors)
    arch = file.need("general.architecture", str)
    if file.tensors:
        if arch not in TABLES:
            raise ConvertError(f"'{path}' has the architecture '{arch}'; known are {', '.join(sorted(TABLES))}")
        _fill(model, file, arch)
    elif not vocabulary:
        raise ConvertError(f"'{path}' holds neither tensors nor a tokenizer")
    keys = _keys(file, vocabulary, chat)
    count = len(vocabulary.tokens) if vocabulary else 0
    model.metadata["source.gguf"] = lambda pieces: _source(file, keys, count, pieces)
    return model


def _same(file, key, default):
    """An integer, or one for each layer if they are all equal."""
    value = file.keys.get(key, (0, default))[1]
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or value < 1:
        raise ConvertError(f"'{file.path}': the key '{key}' is {value}, expected a positive integer")
    return value


def _fill(model, file, arch):
    key = lambda name: f"{arch}.{name}"
    if experts := file.get(key("expert_count"), 0):
        raise ConvertError(f"'{file.path}' is a mixture of {experts} experts, which is not supported")
    dim, heads = _same(file, key("embedding_length"), None), _same(file, key("attention.head_count"), None)
    size = file.get(key("attention.key_length"), dim // heads)
    if (values := file.get(key("attention.value_length"), size)) != size:
        raise ConvertError(f"'{file.path}' has keys of {size} and values of {values}")
    gpt2 = arch == "gpt2"
    has = file.tensors.__contains__
    if not has("token_embd.weight"):
        raise ConvertError(f"'{file.path}' has no tensor 'token_embd.weight'")
    bias = lambda name: has(name.format(i=0).removesuffix(".weight") + ".bias")
    model.table = TABLES[arch]
    model.decoder = Decoder(
        name=file.get("general.name", ""), dim=dim, layers=file.need(key("block_count"), int),
        vocab=file.tensors["token_embd.weight"].shape[0], context=file.need(key("context_length"), int), heads=heads,
        groups=_same(file, key("attention.head_count_kv"), heads), head_size=size,
        ffn=_same(file, key("feed_forward_length"), 4 * dim), norm="layer" if gpt2 else "rms",
        eps=file.need(key("attention.layer_norm_epsilon" if gpt2 else "attention.layer_norm_rms_epsilon"), float),
        learned_positions=gpt2, act="gelu_tanh" if gpt2 else "silu", gated=not gpt2,
        qkv_bias=bias(model.table.get("q") or model.table["qkv"]), out_bias=bias(BASE["out"]), ffn_bias=bias(BASE["down"]),
        own_head=has("output.weight"), qk_norm=has("blk.0.attn_q_norm.weight"),
        window=file.get(key("attention.sliding_window"), 0), rope={} if gpt2 else _rope(model, file, arch, size))


def _rope(model, file, arch, size):
    key = lambda name: f"{arch}.rope.{name}"
    rope = {"rope": "adjacent" if arch == "llama" else "half", "theta": float(file.get(key("freq_base"), 10000.0))}
    if (dims := file.get(key("dimension_count"), size)) != size:
        rope["rope_dims"] = dims
    if not rope["theta"] > 0:
        raise ConvertError(f"'{file.path}': the key '{key('freq_base')}' is {rope['theta']}")
    long = next((name for name in file.tensors if name.startswith("rope_factors_")), None)
    scaling = file.get(key("scaling.type"), "none")
    if long or scaling == "longrope":
        raise ConvertError(f"'{file.path}' uses longrope, which is not supported")
    factor = float(file.get(key("scaling.factor"), file.get(key("scale_linear"), 1.0)))
    original = file.get(key("scaling.original_context_length"), file.need(f"{arch}.context_length", int))
    if scaling == "yarn" and factor > 0:
        rope |= {"rope_scaling": "yarn", "rope_factor": factor, "rope_original_context": original}
        attention = file.get(key("scaling.attn_factor"), 1.0)
        if attention != 1.0:
            rope["rope_mscale"] = attention * (0.1 * math.log(factor) + 1)
    elif scaling in ("none", "linear", ""):
        if factor not in (0.0, 1.0):
            rope |= {"rope_scaling": "linear", "rope_factor": factor}
    else:
        raise ConvertError(f"'{file.path}' uses the rope scaling '{scaling}'; known are none, linear, yarn and Llama 3's")
    if ROPE_FACTORS in file.tensors:
        model.carried.append(ROPE_FACTORS)
        rope |= _llama3(file, rope["theta"], dims)
    return rope


def _llama3(file, theta, dims):
    """The parameters that give these divisors. The file holds only the result; all models there are used low 1, high 4."""
    have = file.tensors[ROPE_FACTORS].floats(0, 1)[0].tolist()
    for original in (8192, 4096, 2048, 16384, 32768):
        factor, ok = max(have), len(have) == dims // 2 and min(have) > 0
        for i, divisor in enumerate(have):
            turns = original / (2 * math.pi * theta ** (2 * i / dims))  # full turns within the original context
            smooth = min(max((turns - 1) / 3, 0), 1)  # 1: kept, 0: divided by the factor
            ok = ok and abs((smooth + (1 - smooth) / factor) * divisor - 1) < 1e-3
        if ok:
            return {"rope_scaling": "llama3", "rope_factor": float(factor), "rope_low_freq_factor": 1.0,
                    "rope_high_freq_factor": 4.0, "rope_original_context": original}
    raise ConvertError(f"'{file.path}': the divisors in '{ROPE_FACTORS}' are not Llama 3's scaling for any known original context")


# ---- what the way back needs ------------------------------------------------------------------------------------------

def restored(vocabulary, chat):
    """Keys that can be told from the .folio alone: name -> value."""
    keys = {}
    if vocabulary:
        keys["tokens"] = words.token_texts(vocabulary)
        keys["token_type"] = [words.NUMBERS[t] for t in vocabulary.types]
        if vocabulary.kind == "bpe":
            keys["merges"] = words.merge_texts(vocabulary)
        else:
            keys["scores"] = vocabulary.scores
    keys = {words.PREFIX + name: value for name, value in keys.items()}
    return keys | ({"tokenizer.chat_template": chat} if chat else {})


def _keys(file, vocabulary, chat):
    """Every key with its type, its value null if `restored` gives it."""
    same = restored(vocabulary, chat)
    return [[name, kind, None if same.get(name) == value else value] for name, (kind, value) in file.keys.items()]


def _source(file, keys, tokens, pieces):
    """JSON: keys, how many tokens there were, and every tensor with the rows of the .folio it became."""
    went = {name: [] for name in file.tensors}
    for piece in pieces:
        row = 0
        for stored, low, high in piece.parts:
            if stored.name:
                went[stored.name].append([low, piece.entry.name, row, row + high - low])
            row += high - low
    tensors = [[name, stored.format, list(stored.shape), [w[1:] for w in sorted(went[name])]]
               for name, stored in file.tensors.items()]
    return json.dumps({"keys": keys, "tokens": tokens, "tensors": tensors}, separators=(",", ":"))
