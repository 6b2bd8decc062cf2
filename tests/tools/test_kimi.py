# SPDX-License-Identifier: MIT
"""Kimi Linear: the published checkpoint's names and keys, what is left out and what is refused. That the whole is right, test_models
says of the golden model."""
import numpy as np
import pytest
from builders import floats
from conftest import GOLDEN
from safetensors.numpy import load_file, save_file
from test_deepseek import changed

SOURCE = GOLDEN / "hf" / "kimi_linear"
H, K = 3, 12   # heads of the delta attention and their size
DELTA, LATENT = "model.layers.2.self_attn.", "model.layers.1.self_attn."
# What the published config.json says for the golden one's keys.
PUBLISHED = {"linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1, 3], "head_dim": 12, "num_heads": 3,
                                    "short_conv_kernel_size": 4},
             "first_k_dense_replace": 1, "moe_layer_freq": 1, "moe_router_activation_func": "sigmoid", "topk_method": "noaux_tc",
             "mla_use_nope": True, "rope_theta": 10000.0, "rope_scaling": None, "num_nextn_predict_layers": 0, "use_grouped_topk": True}
REPLACED = ("layer_types", "mlp_layer_types", "linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim")


def linear(**keys):
    """config.json with other keys in linear_attn_config; None takes one away."""
    given = PUBLISHED["linear_attn_config"] | keys
    return PUBLISHED | {"linear_attn_config": {key: value for key, value in given.items() if value is not None}}


def test_the_delta_attentions_tensors(convert):
    folio, theirs = convert(SOURCE), load_file(SOURCE / "model.safetensors")
    stacked = lambda names: np.concatenate([theirs[DELTA + name] for name in names])
    assert (floats(folio, "layer.2.mix.in.weight") == stacked([f"{name}_proj.weight" for name in "qkv"])).all()
    assert (floats(folio, "layer.2.mix.conv.weight") == stacked([f"{name}_conv1d.weight" for name in "qkv"])[:, 0].T).all()
    for ours, name in (("decay.down", "f_a"), ("decay.up", "f_b"), ("gate.down", "g_a"), ("gate.up", "g_b"), ("gates", "b")):
        assert (floats(folio, f"layer.2.mix.{ours}.weight") == theirs[f"{DELTA}{name}_proj.weight"]).all()
    assert np.allclose(floats(folio, "layer.2.mix.decay.rate").reshape(H, K), -np.exp(theirs[DELTA + "A_log"].reshape(H, 1)))
    assert (floats(folio, "layer.2.mix.decay.bias") == theirs[DELTA + "dt_bias"]).all()


def test_nothing_turns_in_the_latent_attention(convert):
    meta = convert(SOURCE).metadata
    latent = {key.removeprefix("mixer.1."): value for key, value in meta.items() if key.startswith("mixer.1.")}
    assert latent == {"kind": "mla", "heads": 4, "key_size": 16, "rope_size": 8, "value_size": 12, "rank": 32, "norm_eps": 1e-6,
                      "scale": pytest.approx(1 / np.sqrt(24))}
    assert meta["layer.mixer"] == [0, 1, 0] and meta["layer.ffn"] == [0, 1, 1]
    assert (meta["ffn.1.groups"], meta["ffn.1.groups_kept"], meta["ffn.1.group_best"], meta["ffn.1.shared"]) == (4, 2, 2, 32)


def test_the_published_checkpoints_names_and_keys(convert, tmp_path):
    """Layers counted from 1 in two lists, and the dense ffn in mlp, where only experts are in block_sparse_moe."""
    folder = changed(tmp_path, "kimi_linear", drop=REPLACED, **PUBLISHED)
    tensors = load_file(folder / "model.safetensors")
    save_file({name.replace("layers.0.block_sparse_moe", "layers.0.mlp"): x for name, x in tensors.items()}, folder / "model.safetensors")
    same, folio = convert(folder, "--name", "kimi_linear"), convert(SOURCE, out="golden.folio")
    assert same.metadata == folio.metadata
    assert [(e.name, e.shape, e.hash) for e in same.tensors.values()] == [(e.name, e.shape, e.hash) for e in folio.tensors.values()]


def test_without_lists_every_fourth_layer_attends(refuse, tmp_path):
    assert f"has no tensor '{LATENT}o_norm.weight'" in refuse(changed(tmp_path, "kimi_linear", drop=("layer_types",)))


def test_multi_token_prediction_is_left_out_and_said_so(convert, tmp_path):
    more = {"model.layers.3.eh_proj.weight": np.zeros((32, 64), np.float32)}
    folio = convert(changed(tmp_path, "kimi_linear", tensors=more, num_nextn_predict_layers=1))
    assert "(MTP) are left out" in convert.report and len(folio.tensors) == len(convert(SOURCE).tensors)


@pytest.mark.parametrize("keys, words", [
    ({"linear_num_heads": 4}, "'model.layers.0.self_attn.q_conv1d.weight' is [36,1,4], expected [48,1,4]"),
    ({"linear_head_dim": 0}, "linear_head_dim = 0"),
    ({"linear_conv_kernel_dim": 3}, "'model.layers.0.self_attn.q_conv1d.weight' is [36,1,4], expected [36,1,3]"),
    ({"num_key_value_heads": 3}, "3 key heads for 4 heads"), ({"num_expert_group": 3}, "8 experts cannot stand in 3 groups"),
    ({"num_experts_per_token": 5}, "a token chooses 5 of 4 experts"), ({"num_experts": 9}, "9 experts cannot stand in 4 groups"),
    ({"layer_types": ["linear_attention", "chunked", "full_attention"]}, "layer_types has 3 entries of chunked, full_attention, "
     "linear_attention; expected 3 of linear_attention and full_attention"),
    ({"layer_types": ["linear_attention"]}, "layer_types has 1 entries"),
    ({"mlp_layer_types": ["dense", "sparse", "wide"]}, "mlp_layer_types has 3 entries of dense, sparse, wide; expected 3 of dense and "
     "sparse"),
    ({"layer_types": None} | linear(kda_layers=[1, 2, 3]), "do not name each of the layers 1 to 3 once"),
    ({"layer_types": None} | linear(kda_layers=[0, 1]), "do not name each of the layers 1 to 3 once"),
    (linear(gate_lower_bound=-5.0), "linear_attn_config has 'gate_lower_bound', which is not known"),
    (linear(head_dim=16), "'model.layers.0.self_attn.o_norm.weight' is [12], expected [16]"),
    ({"linear_attn_config": 3}, "is damaged"),
    ({"mla_use_nope": False}, "mla_use_nope = False is not supported"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_scaling = {"),
    ({"moe_router_activation_func": "softmax"}, "moe_router_activation_func = 'softmax' is not supported"),
    ({"mla_use_output_gate": True}, "mla_use_output_gate = True is not supported"),
    ({"attn_res_block_size": 12}, "attn_res_block_size = 12 is not supported"),
    ({"routed_expert_hidden_size": 16}, "routed_expert_hidden_size = 16 is not supported"),
    ({"topk_method": "greedy"}, "topk_method = 'greedy' is not supported"),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
])
def test_what_does_not_fit_is_refused(refuse, tmp_path, keys, words):
    assert words in refuse(changed(tmp_path, "kimi_linear", **keys))


def test_a_missing_tensor_is_named(refuse, tmp_path):
    folder = changed(tmp_path, "kimi_linear")
    tensors = load_file(folder / "model.safetensors")
    del tensors[DELTA + "dt_bias"]
    save_file(tensors, folder / "model.safetensors")
    assert f"has no tensor '{DELTA}dt_bias', expected of shape [36]" in refuse(folder)
