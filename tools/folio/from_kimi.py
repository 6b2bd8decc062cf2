# SPDX-License-Identifier: MIT
"""Kimi Linear in Hugging Face folders: layers of Kimi delta attention (models/mixers/recurrent.h) and of latent attention without rope
(models/mixers/mla.h), then DeepSeek-V3's experts.

config.json has names of its own for what DeepSeek's has, and counts layers from 1.
"""
from . import ConvertError, experts, from_deepseek
from .from_fla import Layer, Recurrent, kda, of_each_layer

# Theirs -> DeepSeek's.
KEYS = {"model_max_length": "max_position_embeddings", "moe_renormalize": "norm_topk_prob", "num_expert_group": "n_group",
        "num_experts": "n_routed_experts", "num_local_experts": "n_routed_experts", "num_experts_per_token": "num_experts_per_tok",
        "num_shared_experts": "n_shared_experts"}
# In linear_attn_config -> beside it, as transformers writes them.
LINEAR = {"head_dim": "linear_head_dim", "num_heads": "linear_num_heads", "short_conv_kernel_size": "linear_conv_kernel_dim"}
LAYERS = {"kda_layers": "linear_attention", "full_attn_layers": "full_attention"}
# A key, and the one value of it that changes nothing. The last three are of Kimi K3, whose text model calls itself kimi_linear, too.
REFUSED = (("hidden_act", "silu"), ("mla_use_nope", True), ("rope_scaling", None), ("moe_router_activation_func", "sigmoid"),
           ("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("mla_use_output_gate", False), ("attn_res_block_size", None),
           ("routed_expert_hidden_size", None))
FAMILIES = {"kimi_linear": {
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "vocab_size": 163840, "max_position_embeddings": 1048576, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "linear_head_dim": 128, "linear_num_heads": 32,
    "linear_conv_kernel_dim": 4, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "moe_intermediate_size": 1024,
    "intermediate_size": 9216, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.446,
    "first_k_dense_replace": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}}

left_out = from_deepseek.left_out


def _kinds(config, layers):
    """Per layer what its mixer is: layer_types, or linear_attn_config's two lists, or every fourth attends."""
    given = config.get("linear_attn_config", {})
    absent = ["full_attention" if i and i % 4 == 0 else "linear_attention" for i in range(layers)]
    if all(key in given for key in LAYERS):
        named = {i: kind for key, kind in LAYERS.items() for i in given[key]}
        if sorted(i for key in LAYERS for i in given[key]) != list(range(1, layers + 1)):
            raise ConvertError(f"'{config.path}': {' and '.join(LAYERS)} do not name each of the layers 1 to {layers} once")
        absent = [named[i + 1] for i in range(layers)]
    return of_each_layer(config, "layer_types", layers, LAYERS.values(), absent)


def _translate(config):
    """config.json in DeepSeek's words; refuses what would change the mathematics."""
    linear = config.get("linear_attn_config", {})
    if strange := sorted(set(linear) - set(LINEAR) - set(LAYERS)):
        raise ConvertError(f"'{config.path}': linear_attn_config has '{strange[0]}', which is not known; known are "
                           f"{', '.join(sorted(LINEAR | LAYERS))}")
    given = config.values | {ours: linear[key] for key, ours in LINEAR.items() if key in linear}
    config.values = given | {ours: given[key] for key, ours in KEYS.items() if key in given}
    for key, ok in REFUSED:
        config.refuse(key, ok)


def model(config, rope, tensors):
    """Stands where a Decoder stands; rope is not asked, for nothing turns."""
    _translate(config)
    layers = config.layers()
    C, H, K = config.need("hidden_size"), config.need("linear_num_heads"), config.need("linear_head_dim")
    profile, wanted = from_deepseek.latent_attention(config, {})
    delta = lambda at: kda(at, C, (H, H, K, K), config.need("linear_conv_kernel_dim"), ("f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj"),
                           (1, 1, H, 1))
    at = "model.layers.{}.self_attn.".format
    mix = [delta(at(i)) if kind == "linear_attention" else Layer(profile, wanted(at(i))) for i, kind in enumerate(_kinds(config, layers))]
    listed = config.get("mlp_layer_types")
    sparse = listed and [kind == "sparse" for kind in of_each_layer(config, "mlp_layer_types", layers, ("dense", "sparse"), listed)]
    chosen, sparse = experts.deepseek(config, tensors, "silu", layers, sparse)
    # transformers 5 saves the dense layers, too, below the experts' prefix.
    misplaced = any(name.endswith(".block_sparse_moe.gate_proj.weight") for name in tensors)
    names = from_deepseek.NAMES | ({"mlp": "model.layers.{i}.block_sparse_moe."} if misplaced else {})
    return Recurrent(dim=C, layers=layers, vocab=config.need("vocab_size"), context=config.need("max_position_embeddings"),
                     eps=config.get("rms_norm_eps"), own_head=not config.get("tie_word_embeddings", False), names=names, mix=mix,
                     ffn=0 if sparse and all(sparse) else config.need("intermediate_size"), experts=chosen, sparse=sparse)
