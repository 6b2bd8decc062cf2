# SPDX-License-Identifier: MIT
"""Small checkpoints made on the spot: GGUF by the gguf package, safetensors by its own, llama2.c by struct."""
import json
import struct

import gguf
import numpy as np
from safetensors.numpy import save_file

from folio import quant

DIM, HEADS, GROUPS, LAYERS, FFN, VOCAB, CONTEXT = 64, 4, 2, 2, 96, 40, 32
SIZE = DIM // HEADS


def llama_shapes(dim=DIM, ffn=FFN):
    """Names of GGUF -> shapes of a small Llama."""
    shapes = {"token_embd.weight": (VOCAB, dim), "output_norm.weight": (dim,), "output.weight": (VOCAB, dim)}
    for i in range(LAYERS):
        layer = {"attn_norm": (dim,), "ffn_norm": (dim,), "attn_q": (dim, dim), "attn_k": (GROUPS * dim // HEADS, dim),
                 "attn_v": (GROUPS * dim // HEADS, dim), "attn_output": (dim, dim), "ffn_gate": (ffn, dim), "ffn_up": (ffn, dim),
                 "ffn_down": (dim, ffn)}
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def write_gguf(path, kind="F32", kinds={}, drop=(), reshape={}, more={}, arch="llama", keys={}, vocabulary=None, norms="F32"):
    """A random Llama in one format; kinds: other formats by part of a name. vocabulary(writer) adds a tokenizer."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in keys.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(key, value)
    if vocabulary:
        vocabulary(writer)
    for name, shape in (llama_shapes() | more).items():
        if name in drop:
            continue
        x = random.standard_normal(reshape.get(name, shape)).astype(np.float32)
        wanted = next((k for part, k in kinds.items() if part in name), norms if len(shape) == 1 else kind)
        number = gguf.GGMLQuantizationType[wanted]
        writer.add_tensor(name, gguf.quants.quantize(x, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hf_config(**more):
    return {"architectures": ["LlamaForCausalLM"], "hidden_size": DIM, "num_hidden_layers": 1, "num_attention_heads": HEADS,
            "num_key_value_heads": GROUPS, "intermediate_size": FFN, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": True} | more


def hf_tensors(layers=1):
    random = np.random.default_rng(1)
    shapes = {"model.embed_tokens.weight": (VOCAB, DIM), "model.norm.weight": (DIM,)}
    for i in range(layers):
        layer = {"input_layernorm": (DIM,), "post_attention_layernorm": (DIM,), "self_attn.q_proj": (DIM, DIM),
                 "self_attn.k_proj": (GROUPS * SIZE, DIM), "self_attn.v_proj": (GROUPS * SIZE, DIM), "self_attn.o_proj": (DIM, DIM),
                 "mlp.gate_proj": (FFN, DIM), "mlp.up_proj": (FFN, DIM), "mlp.down_proj": (DIM, FFN)}
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_hf(folder, config=None, tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or hf_config()))
    save_file(hf_tensors() if tensors is None else tensors, folder / "model.safetensors")
    return folder


def write_hf_float8(folder, config, tensors):
    """As write_hf; tensors: name -> float32, or uint8 that goes as float8_e4m3fn. NumPy has no such type: made by hand."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, b""
    for name, x in tensors.items():
        kind = {"float32": "F32", "uint8": "F8_E4M3"}[x.dtype.name]
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [len(data), len(data) + x.nbytes]}
        data += x.tobytes()
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return folder


def write_llama2c(path, version, own_head=False, group=32):
    """A random Llama in one of llama2.c's versions; returns name -> array, names as in from_llama2c.TABLE."""
    random = np.random.default_rng(2)
    kv = GROUPS * SIZE
    shapes = {"attention_norm": (DIM,), "ffn_norm": (DIM,), "attention.wq": (DIM, DIM), "attention.wk": (kv, DIM),
              "attention.wv": (kv, DIM), "attention.wo": (DIM, DIM), "feed_forward.w1": (FFN, DIM), "feed_forward.w2": (DIM, FFN),
              "feed_forward.w3": (FFN, DIM)}
    make = lambda shape: random.standard_normal(shape).astype(np.float32)
    out = {f"layers.{i}.{name}.weight": make(shape) for name, shape in shapes.items() for i in range(LAYERS)}
    out |= {"tok_embeddings.weight": make((VOCAB, DIM)), "norm.weight": make((DIM,))}
    if own_head:
        out["output.weight"] = make((VOCAB, DIM))
    layers = lambda *names: [f"layers.{i}.{name}.weight" for name in names for i in range(LAYERS)]
    matrices = ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
    ffn = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    seven = [DIM, FFN, LAYERS, HEADS, GROUPS, VOCAB, CONTEXT]
    if version == 0:
        seven[5] *= -1 if own_head else 1
        head = struct.pack("<7i", *seven)
        order = ["tok_embeddings.weight", *layers("attention_norm"), *layers(*matrices), *layers("ffn_norm"), *layers(*ffn), "norm.weight"]
        tables = bytes(4 * CONTEXT * SIZE)
    else:
        head = struct.pack("<II7iB", 0x616B3432, version, *seven, not own_head) + (struct.pack("<i", group) if version == 2 else b"")
        head = head.ljust(256, b"\0")
        order = [*layers("attention_norm", "ffn_norm"), "norm.weight", "tok_embeddings.weight", *layers(*matrices, *ffn)]
        tables = b""
    data = [head]
    for name in order + [""] * 1 + (["output.weight"] if own_head else []):
        if not name:
            data.append(tables)
        elif version == 2 and out[name].ndim == 2:
            groups = out[name].reshape(-1, group)
            scale = np.abs(groups).max(axis=1, keepdims=True) / np.float32(127)
            q = np.round(groups / scale).astype(np.int8)
            out[name] = (q.astype(np.float32) * scale).reshape(out[name].shape)
            data += [q.tobytes(), scale.tobytes()]
        else:
            data.append(out[name].tobytes())
    path.write_bytes(b"".join(data))
    return out


def floats(folio, name):
    entry = folio.tensors[name]
    return quant.to_float(entry.format, folio.raw(name)).reshape(entry.shape)
