# SPDX-License-Identifier: MIT
"""Hugging Face folders: for each architecture a table of their names, and a reading of config.json.

Rope is "half" everywhere (pairs i, i + n/2). A key of the config that changes the mathematics and that we do not know how to
honour is refused by name; what config.json leaves out takes the default of the architecture's class in transformers.
"""
import json
import math
import os
import re

from . import ConvertError, experts, float8, from_deepseek, from_fla, from_gpt_oss, from_kimi, from_qwen3_next, safetensors_file, vocabulary_hf
from .assemble import Model
from .decoder import ACTIVATIONS, Decoder

LAYER = "model.layers.{i}."
BASE = {"embed": "model.embed_tokens.weight", "head": "lm_head.weight", "norm_out": "model.norm.weight",
        "norm_mix": LAYER + "input_layernorm.weight", "norm_ffn": LAYER + "post_attention_layernorm.weight",
        "out": LAYER + "self_attn.o_proj.weight", "down": LAYER + "mlp.down_proj.weight"}
APART = {"q": LAYER + "self_attn.q_proj.weight", "k": LAYER + "self_attn.k_proj.weight", "v": LAYER + "self_attn.v_proj.weight",
         "q_norm": LAYER + "self_attn.q_norm.weight", "k_norm": LAYER + "self_attn.k_norm.weight",
         "gate": LAYER + "mlp.gate_proj.weight", "up": LAYER + "mlp.up_proj.weight"}
FUSED = {"qkv": LAYER + "self_attn.qkv_proj.weight", "gate_up": LAYER + "mlp.gate_up_proj.weight"}
GPT2 = {"embed": "wte.weight", "positions": "wpe.weight", "norm_out": "ln_f.weight", "norm_mix": "h.{i}.ln_1.weight",
        "norm_ffn": "h.{i}.ln_2.weight", "qkv": "h.{i}.attn.c_attn.weight", "out": "h.{i}.attn.c_proj.weight",
        "up": "h.{i}.mlp.c_fc.weight", "down": "h.{i}.mlp.c_proj.weight"}
IGNORED = r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$"  # constants that older versions saved

LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "hidden_act": "silu"}
ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", BASE | APART, LLAMA_DEFAULTS),
    "MistralForCausalLM": ("mistral", BASE | APART, LLAMA_DEFAULTS | {"num_key_value_heads": 8, "sliding_window": 4096}),
    "Qwen2ForCausalLM": ("qwen2", BASE | APART, LLAMA_DEFAULTS | {"sliding_window": 4096, "max_window_layers": 28}),
    "Qwen3ForCausalLM": ("qwen3", BASE | APART, LLAMA_DEFAULTS | {"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28}),
    "MixtralForCausalLM": ("mixtral", BASE | APART, LLAMA_DEFAULTS | {"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 1e6,
                                                                      "num_local_experts": 8, "num_experts_per_tok": 2}),
    "Qwen2MoeForCausalLM": ("qwen2_moe", BASE | APART, LLAMA_DEFAULTS | {
        "num_key_value_heads": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}),
    "Qwen3MoeForCausalLM": ("qwen3_moe", BASE | APART, LLAMA_DEFAULTS | {
        "num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768}),
    "GptOssForCausalLM": ("gpt_oss", BASE | APART | {"sink": LAYER + "self_attn.sinks"}, from_gpt_oss.DEFAULTS),
    "Phi3ForCausalLM": ("phi3", BASE | FUSED, LLAMA_DEFAULTS | {"rms_norm_eps": 1e-5}),
    "DeepseekV2ForCausalLM": ("deepseek_v2", {}, from_deepseek.FAMILIES["deepseek_v2"]),
    "DeepseekV3ForCausalLM": ("deepseek_v3", {}, from_deepseek.FAMILIES["deepseek_v3"]),
    "KimiLinearForCausalLM": ("kimi_linear", {}, from_kimi.FAMILIES["kimi_linear"]),
    "Qwen3NextForCausalLM": ("qwen3_next", {}, from_qwen3_next.FAMILIES["qwen3_next"]),
    "GPT2LMHeadModel": ("gpt2", GPT2, {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}),
}
# Families whose layers differ: each module has model(config, rope, tensors), rope being a function of a head's size that gives mixer.N.*
# keys, and left_out(config, tensors), a pattern of the tensors of multi-token prediction or "".
OF_LAYERS = {family: module for module in (from_deepseek, from_kimi, from_qwen3_next) for family in module.FAMILIES}


class Config:
    """config.json with the defaults of its architecture."""

    def __init__(self, path, values, defaults):
        self.path, self.values = path, defaults | values

    def get(self, key, default=None):
        value = self.values.get(key)
        return default if value is None else value

    def need(self, key):
        value = self.values.get(key)
        if not isinstance(value, int) or not 0 < value < 2**31:
            said = f"lacks '{key}'" if value is None else f"has {key} = {value!r}"
            raise ConvertError(f"'{self.path}' {said}, expected a positive integer")
        return value

    def layers(self):
        layers = self.need("num_hidden_layers")
        if layers >= 2**16:
            raise ConvertError(f"'{self.path}' has {layers} layers")
        return layers

    def act(self, key="hidden_act"):
        """Our name of the activation."""
        act = self.get(key)
        if act not in ACTIVATIONS:
            raise ConvertError(f"'{self.path}' has the activation '{act}'; known are {', '.join(sorted(ACTIVATIONS))}")
        return ACTIVATIONS[act]

    def refuse(self, key, ok):
        if (value := self.get(key, ok)) != ok:
            raise ConvertError(f"'{self.path}': {key} = {value!r} is not supported")


def read_json(path):
    """The object in a file; {} if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConvertError(f"cannot read '{path}': {error}") from None
    if not isinstance(value, dict):
        raise ConvertError(f"'{path}' is not a JSON object")
    return value


def load(folder):
    path = os.path.join(folder, "config.json")
    vocabulary, chat = vocabulary_hf.load(folder)
    if not os.path.exists(path):
        if vocabulary:
            return Model(folder, vocabulary=vocabulary, chat=chat)
        raise ConvertError(f"'{folder}' has no config.json")
    skip = lambda name: re.search(IGNORED, name)
    tensors = safetensors_file.read_folder(folder, skip)
    if tensors is None:
        if any(name.endswith(".bin") for name in os.listdir(folder)):
            from . import from_torch
            tensors = from_torch.read_folder(folder, skip)
        elif vocabulary:
            return Model(folder, vocabulary=vocabulary, chat=chat)
        else:
            raise ConvertError(f"'{folder}' has neither {safetensors_file.SINGLE} nor {safetensors_file.INDEX}")
    model = of_tensors(folder, path, tensors)
    model.vocabulary, model.chat = vocabulary, chat
    return model


def of_tensors(source, path, tensors):
    """A Model of these tensors, described by the config.json at path."""
    values = read_json(path)
    kind, names = values.get("model_type", ""), values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(text, str) for text in [*names, "" if kind is None else kind]):
        raise ConvertError(f"'{path}' has model_type {kind!r} and architectures {names!r}; expected a text and a list of texts")
    if kind in from_fla.FAMILIES:
        return _recurrent(source, path, values, tensors)
    name = names[0] if names else next((n for n, a in ARCHITECTURES.items() if a[0] == kind), "none")
    if name not in ARCHITECTURES:
        raise ConvertError(f"'{path}' has the architecture '{name}'; known are {', '.join(sorted(ARCHITECTURES))} "
                           f"and the model types {', '.join(sorted(from_fla.FAMILIES))}")
    family, table, defaults = ARCHITECTURES[name]
    try:
        return _model(source, Config(path, values, defaults), family, table, tensors)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # a value of another type than it must have
        raise ConvertError(f"'{path}' is damaged: {error}") from None


def _float8(source, config, family, tensors):
    """The tensors, float8 ones joined with their scales; notes on what was left out."""
    quantised = config.get("quantization_config", {})
    method = quantised.get("quant_method")
    if family == "gpt_oss" and method in (None, "mxfp4"):
        return from_gpt_oss.join(source, tensors), []
    if quantised and method not in float8.METHODS:
        raise ConvertError(f"'{config.path}': the checkpoint is quantised by {method}, only plain floats and float8 can be read")
    block = quantised.get("weight_block_size") or [128, 128]
    if len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        raise ConvertError(f"'{config.path}': weight_block_size is {block}, expected two positive integers")
    if not any(stored.format == "e4m3" for stored in tensors.values()):
        return tensors, []
    if family == "gpt2":
        raise ConvertError(f"'{source}' is a GPT-2 with float8 tensors, whose transposed matrices cannot be read")
    kept = {name: stored for name, stored in tensors.items() if not re.search(float8.OF_ACTIVATIONS, name)}
    notes = ["scales of activations are left out: activations stay floats"] if len(kept) < len(tensors) else []
    return float8.join(source, kept, tuple(block)), notes


def _recurrent(source, path, values, tensors):
    family = values["model_type"]
    try:
        decoder = from_fla.model(Config(path, values, from_fla.FAMILIES[family][2]), family)
        ignored = r"inv_freq$" if decoder.own_head else r"inv_freq$|^lm_head\.weight$"
        return Model(source, decoder, tensors=tensors, ignored=ignored)
    except (TypeError, ValueError, AttributeError, ArithmeticError, KeyError) as error:
        raise ConvertError(f"'{path}' is damaged: {error}") from None


def _model(source, config, family, table, tensors):
    tensors, notes = _float8(source, config, family, tensors)
    if family == "gpt2":
        prefix = "" if "wte.weight" in tensors else "transformer."
        table = {part: prefix + theirs for part, theirs in table.items()} | {"head": "lm_head.weight"}
    if family in OF_LAYERS:
        decoder = OF_LAYERS[family].model(config, lambda size: _rope(config, size), tensors)
    else:
        decoder = _gpt2(config) if family == "gpt2" else _llama(config, family, tensors)
    ignored = IGNORED if decoder.own_head else IGNORED + r"|^lm_head\.weight$"  # tied: a copy at best
    if family in OF_LAYERS and (further := OF_LAYERS[family].left_out(config, tensors)):
        ignored, notes = ignored + "|" + further, notes + ["the layers of multi-token prediction (MTP) are left out"]
    return Model(source, decoder, table, conv1d=family == "gpt2", tensors=tensors, ignored=ignored, notes=notes)


def _gpt2(config):
    config.refuse("scale_attn_by_inverse_layer_idx", False)
    config.refuse("add_cross_attention", False)
    dim, heads = config.need("n_embd"), config.need("n_head")
    if dim % heads:
        raise ConvertError(f"'{config.path}': n_embd {dim} cannot be split into n_head {heads}")
    return Decoder(
        dim=dim, layers=config.need("n_layer"), vocab=config.need("vocab_size"), context=config.need("n_positions"), heads=heads,
        groups=heads, head_size=dim // heads, ffn=config.get("n_inner", 4 * dim), norm="layer",
        eps=config.get("layer_norm_epsilon"), learned_positions=True, act=config.act("activation_function"), gated=False,
        qkv_bias=True, out_bias=True, ffn_bias=True, own_head=not config.get("tie_word_embeddings", True),
        extra={} if config.get("scale_attn_weights", True) else {"scale": 1.0})


def _experts(config, family, tensors, layers):
    """What a Decoder is told of experts; nothing if the family has none."""
    if family not in ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"):
        return {}
    if family == "gpt_oss":
        return dict(zip(("experts", "sparse"), from_gpt_oss.experts(config, layers)))
    act = config.act("hidden_act")
    if family == "mixtral":
        found = experts.mixtral(config, tensors, act, layers)
    else:
        config.refuse("use_sliding_window", False)
        found = experts.qwen(config, tensors, act, layers, family == "qwen2_moe")
    return dict(zip(("experts", "sparse"), found))


def _llama(config, family, tensors):
    dim, heads = config.need("hidden_size"), config.need("num_attention_heads")
    layers = config.layers()
    size = config.get("head_dim", dim // heads)
    bias = bool(config.get("attention_bias", False))
    window, windowed = _window(config, family, layers)
    return Decoder(
        dim=dim, layers=layers, vocab=config.need("vocab_size"), context=config.need("max_position_embeddings"), heads=heads,
        groups=config.get("num_key_value_heads", heads), head_size=size, ffn=config.need("intermediate_size"),
        eps=config.get("rms_norm_eps"), act=config.act("hidden_act"), out_bias=bias,
        qkv_bias=bias or family == "qwen2" or (family == "qwen2_moe" and config.get("qkv_bias", True)),
        ffn_bias=bool(config.get("mlp_bias", False)), own_head=not config.get("tie_word_embeddings", False),
        qk_norm=family.startswith("qwen3"), sink=family == "gpt_oss", window=window, windowed=windowed, rope=_rope(config, size),
        **_experts(config, family, tensors, layers))


def _window(config, family, layers):
    """(window, per layer whether it holds)."""
    if family == "llama" or (family.startswith("qwen") and not config.get("use_sliding_window", False)):
        return 0, []
    window = config.get("sliding_window", 0)
    if not window or not family.startswith(("qwen", "gpt_oss")):
        return window, []
    if family == "gpt_oss":
        usual = [("full_attention" if i % 2 else "sliding_attention") for i in range(layers)]
    else:
        first = config.get("max_window_layers")
        usual = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    kinds = config.get("layer_types") or usual
    strange = set(kinds) - {"full_attention", "sliding_attention"}
    if strange or len(kinds) != layers:
        raise ConvertError(f"'{config.path}': layer_types has {len(kinds)} entries of {', '.join(sorted(set(kinds)))}")
    return window, [kind == "sliding_attention" for kind in kinds]


def _rope(config, size):
    """transformers 5 keeps everything in rope_parameters; before it was rope_theta, rope_scaling and partial_rotary_factor."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = given.get("rope_theta") or config.get("rope_theta", 10000.0)
    rope = {"rope": "half", "theta": float(theta)}
    dims = int(size * (given.get("partial_rotary_factor") or config.get("partial_rotary_factor", 1.0)))
    if dims != size:
        rope["rope_dims"] = dims
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return rope
    context = config.need("max_position_embeddings")
    original = config.get("original_max_position_embeddings") or given.get("original_max_position_embeddings") or context
    number = lambda key: _number(config, given, key)
    if kind == "linear":
        return rope | {"rope_scaling": "linear", "rope_factor": number("factor")}
    if kind == "llama3":
        return rope | {"rope_scaling": "llama3", "rope_factor": number("factor"), "rope_original_context": original,
                       "rope_low_freq_factor": number("low_freq_factor"), "rope_high_freq_factor": number("high_freq_factor")}
    if kind == "yarn":
        factor = number("factor") if given.get("factor") is not None else context / original
        rope |= {"rope_scaling": "yarn", "rope_factor": factor, "rope_original_context": original,
                 "rope_beta_fast": float(given.get("beta_fast") or 32), "rope_beta_slow": float(given.get("beta_slow") or 1)}
        if given.get("truncate", True) is False:
            rope["rope_truncate"] = 0
        mscale = _mscale(factor, given)
        return rope if mscale is None else rope | {"rope_mscale": mscale}
    raise ConvertError(f"'{config.path}' uses the rope scaling '{kind}'; known are linear, llama3 and yarn")


def _number(config, given, key):
    if not isinstance(given.get(key), (int, float)):
        raise ConvertError(f"'{config.path}': the rope scaling lacks the number '{key}'")
    return float(given[key])


def _mscale(factor, given):
    """The factor on cosines and sines where it is not 0.1 ln(factor) + 1."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    scale = lambda m: 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0
    if given.get("mscale") and given.get("mscale_all_dim"):
        return scale(given["mscale"]) / scale(given["mscale_all_dim"])
    return None if factor > 1 else 1.0
