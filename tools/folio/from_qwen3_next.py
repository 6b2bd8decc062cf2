# SPDX-License-Identifier: MIT
"""Qwen3-Next in Hugging Face folders: layers of gated DeltaNet (models/mixers/recurrent.h) and of gated attention, then experts.

The checkpoint groups rows by heads, here they stand by what they are: of in_proj_qkvz a key head has its q, its k, then v and z of the
value heads that share it; of in_proj_ba write strengths b, then decays a; of q_proj a head has its query, then its gate. Norms hold their
weights less 1, but for the one behind the DeltaNet's memory.
"""
from . import ConvertError, experts
from .decoder import Part, Wanted, check_rope
from .from_deepseek import NAMES
from .from_fla import Layer, Recurrent, made, matrix, negative_exp, of_each_layer, one_more, vector

FAMILIES = {"qwen3_next": {
    "rms_norm_eps": 1e-6, "hidden_act": "silu", "vocab_size": 151936, "max_position_embeddings": 32768, "num_key_value_heads": 2,
    "head_dim": 256, "partial_rotary_factor": 0.25, "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "num_experts": 512, "num_experts_per_tok": 10,
    "norm_topk_prob": True, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "intermediate_size": 5632}}
KINDS = ("linear_attention", "full_attention")
MTP = r"^mtp\."


def _grouped(name, groups, widths, which):
    """Rows of a product in which each group has rows of `widths`: of all groups those of the widths `which`, as parts of a matrix."""
    whole, begin = sum(widths), sum(widths[:which])
    return [(name, groups * whole, (g * whole + begin, g * whole + begin + widths[which])) for g in range(groups)]


def _delta(config, at):
    """A layer of gated DeltaNet; `at` is the prefix of its names."""
    C, taps = config.need("hidden_size"), config.need("linear_conv_kernel_dim")
    G, H = config.need("linear_num_key_heads"), config.need("linear_num_value_heads")
    K, V = config.need("linear_key_head_dim"), config.need("linear_value_head_dim")
    if H % G:
        raise ConvertError(f"'{config.path}': linear_num_value_heads {H} cannot share linear_num_key_heads {G}")
    config.refuse("hidden_act", "silu")
    each, channels = H // G, 2 * G * K + H * V
    profile = {"kind": "linear", "heads": H, "groups": G, "key_size": K, "value_size": V, "conv": taps, "act": "silu", "qk_norm": "l2",
               "decay": "head", "beta": 1, "gate": "after"}
    inside = [part for which in range(4) for part in _grouped(at + "in_proj_qkvz.weight", G, (K, K, each * V, each * V), which)]
    gates = [part for which in (1, 0) for part in _grouped(at + "in_proj_ba.weight", G, (each, each), which)]
    return Layer(profile, [
        matrix("in.weight", inside, C), matrix("gates.weight", gates, C), matrix("out.weight", [(at + "out_proj.weight", C)], H * V),
        made("conv.weight", (taps, channels), [Part(at + "conv1d.weight", (channels, 1, taps))], lambda w: w[:, 0, :].T),
        negative_exp("decay.rate", at + "A_log", H), vector("decay.bias", at + "dt_bias", H), vector("norm.weight", at + "norm.weight", V)])


def _attention(config, rope, at):
    """A layer of attention with an output gate."""
    C, H, G = config.need("hidden_size"), config.need("num_attention_heads"), config.need("num_key_value_heads")
    D = config.need("head_dim")
    if H % G:
        raise ConvertError(f"'{config.path}': num_attention_heads {H} cannot share num_key_value_heads {G}")
    keys = rope(D)
    check_rope(keys, D)
    profile = {"kind": "attention", "heads": H, "groups": G, "head_size": D, "qk_norm": 1, "gate": 1} | keys
    rows = lambda end: [*_grouped(at + "q_proj" + end, H, (D, D), 0), (at + "k_proj" + end, G * D, (0, G * D)),
                        (at + "v_proj" + end, G * D, (0, G * D)), *_grouped(at + "q_proj" + end, H, (D, D), 1)]
    layer = [matrix("qkv.weight", rows(".weight"), C)]
    if config.get("attention_bias", False):
        biases = [Part(name, (n,), taken) for name, n, taken in rows(".bias")]
        layer += [Wanted("qkv.bias", (2 * (H + G) * D,), biases, False), vector("out.bias", at + "o_proj.bias", C)]
    return Layer(profile, layer + [one_more("q_norm.weight", at + "q_norm.weight", D), one_more("k_norm.weight", at + "k_norm.weight", D),
                                   matrix("out.weight", [(at + "o_proj.weight", C)], H * D)])


def _kinds(config, layers):
    """Per layer its entry of layer_types; without such a list each full_attention_interval-th has attention."""
    each = config.need("full_attention_interval")
    return of_each_layer(config, "layer_types", layers, KINDS, [KINDS[(i + 1) % each == 0] for i in range(layers)])


def left_out(config, tensors):
    """A pattern of the tensors of multi-token prediction; "" if there are none."""
    return MTP if any(name.startswith("mtp.") for name in tensors) else ""


def model(config, rope, tensors):
    """Stands where a Decoder stands. rope: the size of a head -> mixer.N.* keys."""
    layers, act = config.layers(), config.act()
    at = "model.layers.{}.".format
    mix = [_delta(config, at(i) + "linear_attn.") if kind == KINDS[0] else _attention(config, rope, at(i) + "self_attn.")
           for i, kind in enumerate(_kinds(config, layers))]
    chosen, sparse = experts.qwen(config, tensors, act, layers, True)
    return Recurrent(dim=config.need("hidden_size"), layers=layers, vocab=config.need("vocab_size"),
                     context=config.need("max_position_embeddings"), eps=config.get("rms_norm_eps"),
                     own_head=not config.get("tie_word_embeddings", False), names=NAMES, mix=mix,
                     ffn=0 if all(sparse) else config.need("intermediate_size"), act=act, experts=chosen, sparse=sparse,
                     less_one=True)
