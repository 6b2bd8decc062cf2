# SPDX-License-Identifier: MIT
"""DeepSeek-V2 and V3: how the latent's up-projection is split, what is left out, what is refused. That the whole is right, the golden models of
test_sources.py say."""
import json

import numpy as np
import pytest
from conftest import GOLDEN
from safetensors.numpy import load_file, save_file

from folio import quant


def changed(tmp_path, name="deepseek_v3", drop=(), tensors=None, **keys):
    """A golden model with other keys in config.json and further tensors."""
    folder = tmp_path / "changed"
    folder.mkdir()
    config = json.loads((GOLDEN / "hf" / name / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in drop}))
    save_file(load_file(GOLDEN / "hf" / name / "model.safetensors") | (tensors or {}), folder / "model.safetensors")
    return folder


def floats(folio, name):
    entry = folio.tensors[name]
    return quant.to_float(entry.format, folio.raw(name)).reshape(entry.shape)


def test_the_latents_up_projection_is_split_head_by_head(convert):
    folio = convert(GOLDEN / "hf" / "deepseek_v3")
    both = load_file(GOLDEN / "hf" / "deepseek_v3" / "model.safetensors")["model.layers.1.self_attn.kv_b_proj.weight"].reshape(4, 16 + 12, 32)
    assert (floats(folio, "layer.1.mix.k_up.weight").reshape(4, 16, 32) == both[:, :16]).all()
    assert (floats(folio, "layer.1.mix.v_up.weight").reshape(4, 12, 32) == both[:, 16:]).all()


def test_float8_stays_float8(convert):
    tensors = convert(GOLDEN / "hf" / "deepseek_v3_fp8").tensors
    assert {tensors[f"layer.0.mix.{name}.weight"].format for name in ("in", "q_up", "k_up", "v_up", "out")} == {"f8_e4m3"}


def test_the_scale_has_mscale_squared(convert, tmp_path):
    scale = lambda source: convert(source).metadata["mixer.0.scale"]
    m = 0.1 * 0.707 * np.log(8) + 1
    assert scale(GOLDEN / "hf" / "deepseek_v2") == pytest.approx(m * m / np.sqrt(24))
    assert scale(GOLDEN / "hf" / "deepseek_v3_fp8") == pytest.approx(1 / 8)
    plain = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}}
    assert scale(changed(tmp_path, "deepseek_v2", **plain)) == pytest.approx(1 / np.sqrt(24))


def test_rope_is_interleaved_unless_the_config_says_otherwise(convert, tmp_path):
    assert convert(GOLDEN / "hf" / "deepseek_v3").metadata["mixer.0.rope"] == "adjacent"
    assert convert(changed(tmp_path, rope_interleave=False)).metadata["mixer.0.rope"] == "half"


def test_multi_token_prediction_is_left_out_and_said_so(convert, tmp_path):
    more = {"model.layers.2.eh_proj.weight": np.zeros((32, 64), np.float32), "model.layers.2.enorm.weight": np.zeros(32, np.float32)}
    folio = convert(changed(tmp_path, tensors=more, num_nextn_predict_layers=1))
    assert "MTP" in convert.report and not any(name.startswith("layer.2.") for name in folio.tensors)


def test_tensors_behind_the_last_layer_are_extra_without_mtp(refuse, tmp_path):
    more = {"model.layers.2.enorm.weight": np.zeros(32, np.float32)}
    assert "extra tensor 'model.layers.2.enorm.weight'" in refuse(changed(tmp_path, tensors=more))


@pytest.mark.parametrize("keys, words", [
    ({"first_k_dense_replace": 1}, "has no tensor 'model.layers.1.mlp.gate.weight'"),
    ({"first_k_dense_replace": 0, "moe_layer_freq": 0}, "moe_layer_freq 0"),
    ({"num_key_value_heads": 2}, "2 key heads for 4 heads"),
    ({"qk_rope_head_dim": 7}, "qk_rope_head_dim is 7, expected an even number"),
    ({"qk_nope_head_dim": 0}, "qk_nope_head_dim = 0"),
    ({"kv_lora_rank": 16}, "'model.layers.0.self_attn.kv_a_proj_with_mqa.weight' is [40,32], expected [24,32]"),
    ({"v_head_dim": 16}, "'model.layers.0.self_attn.kv_b_proj.weight' is [112,32], expected [128,32]"),
    ({"q_lora_rank": None}, "has no tensor 'model.layers.0.self_attn.q_proj.weight'"),
    ({"hidden_act": "swoosh"}, "activation 'swoosh'"),
    ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "uses the rope scaling 'dynamic'"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": "much"}}, "lacks the number 'factor'"),
])
def test_what_does_not_fit_is_refused(refuse, tmp_path, keys, words):
    assert words in refuse(changed(tmp_path, **keys))
