# SPDX-License-Identifier: MIT
"""DeepSeek-V2 and V3 in Hugging Face folders: multi-head latent attention (models/mixers/mla.h), dense layers and layers of experts.

Of the latent's up-projection kv_b_proj a head has the rows of its keys, then those of its values; here they are two matrices. The square of
YaRN's mscale over all dimensions goes into the scale of the logits. The layers of multi-token prediction behind the last are left out.
"""
import math
import re

from . import ConvertError, experts
from .decoder import Part
from .from_fla import Layer, Recurrent, made, matrix, vector

NAMES = {"embed": "model.embed_tokens.weight", "norm_mix": "model.layers.{i}.input_layernorm.weight", "mlp": "model.layers.{i}.mlp.",
         "norm_ffn": "model.layers.{i}.post_attention_layernorm.weight", "norm_out": "model.norm.weight"}
NORM_EPS = 1e-6  # of the norms within the attention: it stands in the code of the models, not in config.json

DEFAULTS = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
            "v_head_dim": 128}
FAMILIES = {
    "deepseek_v2": DEFAULTS | {"vocab_size": 102400, "max_position_embeddings": 2048, "first_k_dense_replace": 0, "n_routed_experts": 64},
    "deepseek_v3": DEFAULTS | {"vocab_size": 129280, "max_position_embeddings": 4096, "first_k_dense_replace": 3, "rope_interleave": True,
                               "num_nextn_predict_layers": 1, "n_routed_experts": 256},
}


def _scale(config, width, factor):
    """1/sqrt(width) of the logits, times mscale squared where a rope scaling (by `factor`) is configured with it."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    m = 0.1 * (given.get("mscale_all_dim") or 0) * math.log(max(factor, 1)) + 1
    return m * m / math.sqrt(width)


def latent_attention(config, rope):
    """The profile, and a function of a layer's prefix that lists its tensors. rope: mixer.N.* keys, none if nothing turns."""
    C, H = config.need("hidden_size"), config.need("num_attention_heads")
    dn, dr, dv, R = (config.need(key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
    Q = config.need("q_lora_rank") if config.values.get("q_lora_rank") is not None else 0
    if config.get("num_key_value_heads", H) != H:
        raise ConvertError(f"'{config.path}': {config.get('num_key_value_heads')} key heads for {H} heads; latent attention has no groups")
    if rope and dr % 2:
        raise ConvertError(f"'{config.path}': qk_rope_head_dim is {dr}, expected an even number")
    profile = {"kind": "mla", "heads": H, "key_size": dn, "rope_size": dr, "value_size": dv, "rank": R} | ({"q_rank": Q} if Q else {})
    profile |= {"scale": _scale(config, dn + dr, rope.get("rope_factor", 1)), "norm_eps": NORM_EPS} | rope
    bias = bool(config.get("attention_bias", False))

    def half(ours, name, begin, n):
        each = [(name, H * (dn + dv), (h * (dn + dv) + begin, h * (dn + dv) + begin + n)) for h in range(H)]
        return matrix(ours, each, R)

    def wanted(at):
        q = (at + "q_a_proj.weight", Q) if Q else (at + "q_proj.weight", H * (dn + dr))
        out = [matrix("in.weight", [q, (at + "kv_a_proj_with_mqa.weight", R + dr)], C)]
        if bias:
            parts = ([Part(at + "q_a_proj.bias", (Q,))] if Q else []) + [Part(at + "kv_a_proj_with_mqa.bias", (R + dr,))]
            zeros = [0.0] * (0 if Q else H * (dn + dr))   # q_proj has none
            out.append(made("in.bias", (q[1] + R + dr,), parts, lambda *b: zeros + [x for part in b for x in part]))
        if Q:
            out += [vector("q_norm.weight", at + "q_a_layernorm.weight", Q), matrix("q_up.weight", [(at + "q_b_proj.weight", H * (dn + dr))], Q)]
        out += [vector("latent_norm.weight", at + "kv_a_layernorm.weight", R), half("k_up.weight", at + "kv_b_proj.weight", 0, dn),
                half("v_up.weight", at + "kv_b_proj.weight", dn, dv), matrix("out.weight", [(at + "o_proj.weight", C)], H * dv)]
        return out + ([vector("out.bias", at + "o_proj.bias", C)] if bias else [])

    return profile, wanted


def left_out(config, tensors):
    """A pattern of the tensors of multi-token prediction, which stand behind the last layer; "" if there are none."""
    layers = config.need("num_hidden_layers")
    more = "|".join(str(layers + i) for i in range(config.get("num_nextn_predict_layers", 0)))
    pattern = rf"^model\.layers\.({more})\."
    return pattern if more and any(re.search(pattern, name) for name in tensors) else ""


def model(config, rope, tensors):
    """Stands where a Decoder stands. rope: the size of the rotated part -> its mixer.N.* keys."""
    layers, act = config.layers(), config.act()
    config.refuse("mlp_bias", False)
    rope = rope(config.need("qk_rope_head_dim")) | {"rope": "adjacent" if config.get("rope_interleave", True) else "half"}
    profile, wanted = latent_attention(config, rope)
    chosen, sparse = experts.deepseek(config, tensors, act, layers)
    ffn = 0 if sparse and all(sparse) else config.need("intermediate_size")
    return Recurrent(dim=config.need("hidden_size"), layers=layers, vocab=config.need("vocab_size"), context=config.need("max_position_embeddings"),
                     eps=config.get("rms_norm_eps"), own_head=not config.get("tie_word_embeddings", False), names=NAMES, ffn=ffn,
                     act=act, experts=chosen, sparse=sparse,
                     mix=[Layer(profile, wanted(f"model.layers.{i}.self_attn.")) for i in range(layers)])
