# SPDX-License-Identifier: MIT
"""Qwen3-Next: how rows that a checkpoint groups by heads are sorted, what is folded into weights, what is left out and what is refused.
That the whole is right, test_models says of the golden model."""
import json

import numpy as np
import pytest
from builders import floats, write_hf_float8
from conftest import GOLDEN
from safetensors.numpy import load_file
from test_deepseek import changed

from folio import quant

SOURCE = GOLDEN / "hf" / "qwen3_next"
C, G, H, K, V = 32, 2, 4, 16, 12   # width; key heads, value heads and their sizes of the DeltaNet
HEADS, GROUPS, D = 4, 2, 16        # of the attention
DELTA, ATTENTION = "model.layers.1.linear_attn.", "model.layers.2.self_attn."


@pytest.fixture
def folio(convert):
    return convert(SOURCE)


@pytest.fixture(scope="module")
def theirs():
    return load_file(SOURCE / "model.safetensors")


def sorted_qkvz(w):
    """Rows of q, k, v, z of an in_proj_qkvz."""
    q, k, v, z = np.split(w.reshape(G, -1, w.shape[-1]), np.cumsum([K, K, H // G * V]), axis=1)
    return np.concatenate([part.reshape(-1, w.shape[-1]) for part in (q, k, v, z)])


def sorted_query_and_gate(w):
    both = w.reshape(HEADS, 2, D, *w.shape[1:])
    return both[:, 0].reshape(HEADS * D, *w.shape[1:]), both[:, 1].reshape(HEADS * D, *w.shape[1:])


def test_the_delta_nets_rows_are_sorted(folio, theirs):
    assert (floats(folio, "layer.1.mix.in.weight") == sorted_qkvz(theirs[DELTA + "in_proj_qkvz.weight"])).all()
    ba = theirs[DELTA + "in_proj_ba.weight"].reshape(G, 2, H // G, C)
    assert (floats(folio, "layer.1.mix.gates.weight") == np.concatenate([ba[:, 1].reshape(H, C), ba[:, 0].reshape(H, C)])).all()
    assert (floats(folio, "layer.1.mix.conv.weight") == theirs[DELTA + "conv1d.weight"][:, 0].T).all()


def test_queries_stand_before_keys_and_gates_behind_values(folio, theirs):
    q, gate = sorted_query_and_gate(theirs[ATTENTION + "q_proj.weight"])
    k, v = (theirs[f"{ATTENTION}{name}_proj.weight"] for name in "kv")
    assert (floats(folio, "layer.2.mix.qkv.weight") == np.concatenate([q, k, v, gate])).all()
    assert folio.metadata["mixer.1.gate"] == 1 and folio.metadata["mixer.1.rope_dims"] == 8


def test_biases_go_the_same_way(convert, tmp_path):
    random = np.random.default_rng(1)
    sizes = {"q": 2 * HEADS * D, "k": GROUPS * D, "v": GROUPS * D, "o": C}
    biases = {name: random.standard_normal(n).astype(np.float32) for name, n in sizes.items()}
    folio = convert(changed(tmp_path, "qwen3_next", attention_bias=True,
                            tensors={f"{ATTENTION}{name}_proj.bias": x for name, x in biases.items()}))
    q, gate = sorted_query_and_gate(biases["q"])
    assert (floats(folio, "layer.2.mix.qkv.bias") == np.concatenate([q, biases["k"], biases["v"], gate])).all()
    assert (floats(folio, "layer.2.mix.out.bias") == biases["o"]).all()


def test_one_is_folded_into_norms_but_not_into_the_memorys(folio, theirs):
    layer = "model.layers.1."
    for ours, name in (("layer.1.norm_mix", layer + "input_layernorm"), ("layer.1.norm_ffn", layer + "post_attention_layernorm"),
                       ("layer.2.mix.q_norm", ATTENTION + "q_norm"), ("layer.2.mix.k_norm", ATTENTION + "k_norm"),
                       ("norm_out", "model.norm")):
        assert (floats(folio, ours + ".weight") == 1 + theirs[name + ".weight"]).all()
    assert (floats(folio, "layer.1.mix.norm.weight") == theirs[DELTA + "norm.weight"]).all()
    assert np.allclose(floats(folio, "layer.1.mix.decay.rate"), -np.exp(theirs[DELTA + "A_log"]))


def test_the_published_checkpoints_keys(convert, tmp_path, folio):
    """An interval for the list of layers, rope in keys of its own; a quarter of a head turns if nothing is said."""
    plain = dict(drop=("layer_types", "rope_parameters"), full_attention_interval=3, rope_theta=1000000, rope_scaling=None)
    (tmp_path / "a").mkdir()
    same = convert(changed(tmp_path / "a", "qwen3_next", partial_rotary_factor=0.5, **plain), "--name", "qwen3_next")
    assert same.metadata == folio.metadata
    (tmp_path / "b").mkdir()
    assert convert(changed(tmp_path / "b", "qwen3_next", **plain)).metadata["mixer.1.rope_dims"] == 4


def test_multi_token_prediction_is_left_out_and_said_so(convert, tmp_path):
    more = {"mtp.fc.weight": np.zeros((C, 2 * C), np.float32), "mtp.layers.0.mlp.gate.weight": np.zeros((6, C), np.float32)}
    folio = convert(changed(tmp_path, "qwen3_next", tensors=more))
    assert "(MTP) are left out" in convert.report and len(folio.tensors) == len(convert(SOURCE).tensors)
    assert "left out" not in convert.report


def test_float8_rows_keep_their_scales(convert, tmp_path, theirs):
    name, random = DELTA + "in_proj_qkvz.weight", np.random.default_rng(2)
    q, scales = random.integers(0, 0x78, (160, C)).astype(np.uint8), random.uniform(0.5, 2, (20, 1)).astype(np.float32)
    config = json.loads((SOURCE / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [8, 32]}
    folio = convert(write_hf_float8(tmp_path / "m", config, theirs | {name: q, name + "_scale_inv": scales}), "--type", "f32")
    assert (floats(folio, "layer.1.mix.in.weight") == sorted_qkvz(quant.E4M3[q] * np.repeat(scales, 8, axis=0))).all()


@pytest.mark.parametrize("keys, words", [
    ({"linear_num_value_heads": 3}, "linear_num_value_heads 3 cannot share linear_num_key_heads 2"),
    ({"linear_num_key_heads": 0}, "linear_num_key_heads = 0"),
    ({"num_key_value_heads": 3}, "num_attention_heads 4 cannot share num_key_value_heads 3"),
    ({"linear_value_head_dim": 16}, "'model.layers.0.linear_attn.in_proj_qkvz.weight' is [160,32], expected [192,32]"),
    ({"linear_conv_kernel_dim": 3}, "'model.layers.0.linear_attn.conv1d.weight' is [112,1,4], expected [112,1,3]"),
    ({"head_dim": 8}, "'model.layers.2.self_attn.q_proj.weight' is [128,32], expected [64,32]"),
    ({"layer_types": ["linear_attention", "sliding_attention", "full_attention"]}, "layer_types has 3 entries of full_attention, "
     "linear_attention, sliding_attention; expected 3 of linear_attention and full_attention"),
    ({"layer_types": ["linear_attention"] * 2}, "layer_types has 2 entries of linear_attention; expected 3"),
    ({"layer_types": None, "full_attention_interval": 0}, "full_attention_interval = 0"),
    ({"layer_types": None}, "has no tensor 'model.layers.2.linear_attn.in_proj_qkvz.weight'"),
    ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0}}, "uses the rope scaling 'longrope'"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.45}}, "rope turns 7 of 16 elements of a head"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "theta is -1.0, expected a positive number"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"), ({"hidden_act": "swoosh"}, "activation 'swoosh'"),
    ({"num_experts": 0}, "num_experts = 0"), ({"num_experts_per_tok": 7}, "a token chooses 7 of 6 experts"),
    ({"num_hidden_layers": 70000, "layer_types": None}, "has 70000 layers"),
])
def test_what_does_not_fit_is_refused(refuse, tmp_path, keys, words):
    assert words in refuse(changed(tmp_path, "qwen3_next", **keys))
