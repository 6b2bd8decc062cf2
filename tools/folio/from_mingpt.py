# SPDX-License-Identifier: MIT
"""minGPT checkpoints as JSON: {"config": {...}, NAME: {"shape", "dtype", "data": base64 float32}, ...}.

The architecture is GPT-2's, its matrices stored [out, in]. No tokenizer: the models of this form count, sort and add.
"""
import base64
import binascii
import json
import math

import numpy as np

from . import ConvertError
from .assemble import Model
from .decoder import Decoder
from .stored import Stored

TABLE = {"embed": "transformer.wte.weight", "positions": "transformer.wpe.weight", "head": "lm_head.weight",
         "norm_out": "transformer.ln_f.weight", "norm_mix": "transformer.h.{i}.ln_1.weight",
         "norm_ffn": "transformer.h.{i}.ln_2.weight", "qkv": "transformer.h.{i}.attn.c_attn.weight",
         "out": "transformer.h.{i}.attn.c_proj.weight", "up": "transformer.h.{i}.mlp.c_fc.weight",
         "down": "transformer.h.{i}.mlp.c_proj.weight"}


def load(path, text):
    config = text.get("config")
    keys = ("n_layer", "n_head", "n_embd", "vocab_size", "block_size")
    if not isinstance(config, dict) or any(not isinstance(config.get(k), int) for k in keys):
        raise ConvertError(f"'{path}' is JSON, but not a minGPT checkpoint: its config lacks {', '.join(keys)}")
    layers, heads, dim, vocab, context = (config[k] for k in keys)
    if heads < 1 or dim % heads:
        raise ConvertError(f"'{path}': n_embd {dim} cannot be split into n_head {heads}")
    d = Decoder(dim=dim, layers=layers, vocab=vocab, context=context, heads=heads, groups=heads, head_size=dim // heads,
                ffn=4 * dim, norm="layer", learned_positions=True, act="gelu_tanh", gated=False, qkv_bias=True,
                out_bias=True, ffn_bias=True)
    tensors = {name: _tensor(path, name, value) for name, value in text.items() if name != "config"}
    return Model(path, d, TABLE, tensors=tensors, ignored=r"\.attn\.bias$")


def _tensor(path, name, value):
    try:
        shape, kind, data = value["shape"], value["dtype"], base64.b64decode(value["data"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error):
        raise ConvertError(f"'{path}': tensor '{name}' is not shape, dtype and base64 data") from None
    if kind != "torch.float32" or math.prod(shape) * 4 != len(data):
        raise ConvertError(f"'{path}': tensor '{name}' of {kind} {shape} has {len(data)} bytes of data")
    return Stored("f32", shape, np.frombuffer(data, np.uint8))


def parse(path, data):
    try:
        text = json.loads(bytes(data))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConvertError(f"'{path}' is not valid JSON: {error}") from None
    if not isinstance(text, dict):
        raise ConvertError(f"'{path}' is JSON, but no object")
    return text
