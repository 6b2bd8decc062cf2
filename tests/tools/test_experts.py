# SPDX-License-Identifier: MIT
"""Experts of Hugging Face checkpoints: both layouts, the routers' rules, and memory that does not grow with their number."""
import shutil
import tracemalloc

import numpy as np
import pytest
from builders import DIM, hf_config, hf_tensors, write_hf
from conftest import GOLDEN
from safetensors.numpy import load_file, save_file

from folio import ConvertError, experts
from folio.from_hf import Config


def fuse(name, to, prefix, gate, up, down):
    """The golden checkpoint with all experts of a layer in two tensors, as newer transformers writes them."""
    shutil.copytree(GOLDEN / "hf" / name, to)
    tensors, out, stacks = load_file(to / "model.safetensors"), {}, {}
    for key, x in tensors.items():
        at = key.find(prefix + "experts.")
        if at < 0:
            out[key.replace(prefix, "mlp.")] = x
            continue
        j, part = key[at + len(prefix + "experts."):].removesuffix(".weight").split(".")
        stacks.setdefault((key[:at], part), {})[int(j)] = x
    stacks = {key: np.stack([by_expert[j] for j in sorted(by_expert)]) for key, by_expert in stacks.items()}
    for layer in {layer for layer, _ in stacks}:
        out[layer + "mlp.experts.gate_up_proj"] = np.concatenate([stacks[layer, gate], stacks[layer, up]], axis=1)
        out[layer + "mlp.experts.down_proj"] = stacks[layer, down]
    save_file(out, to / "model.safetensors")
    return to


@pytest.mark.parametrize("name, prefix, parts", [("mixtral", "block_sparse_moe.", ("w1", "w3", "w2")),
                                                 ("qwen2_moe", "mlp.", ("gate_proj", "up_proj", "down_proj"))])
def test_both_layouts_give_the_same_file(convert, tmp_path, name, prefix, parts):
    apart = convert(GOLDEN / "hf" / name, "--name", "m")
    fused = convert(fuse(name, tmp_path / "fused", prefix, *parts), "--name", "m", out="fused.folio")
    assert apart.metadata == fused.metadata
    assert [(e.name, e.format, e.shape, e.hash) for e in apart.tensors.values()] == [
        (e.name, e.format, e.shape, e.hash) for e in fused.tensors.values()]
    assert len([e for e in fused.tensors.values() if len(e.shape) == 3]) == (6 if name == "mixtral" else 3)


def test_routers_stay_f32(convert):
    folio = convert(GOLDEN / "hf" / "qwen2_moe", "--type", "q8_0")
    assert {e.name.split(".", 3)[3]: e.format for e in folio.tensors.values() if "layer.1.ffn" in e.name} == {
        "router.weight": "f32", "experts.gate.weight": "q8_0", "experts.up.weight": "q8_0", "experts.down.weight": "q8_0",
        "shared.gate.weight": "q8_0", "shared.up.weight": "q8_0", "shared.down.weight": "q8_0", "shared_gate.weight": "f32"}
    assert folio.metadata["layer.ffn"] == [0, 1] and folio.metadata["ffn.0.kind"] == "dense"


# ---- a checkpoint made on the spot ------------------------------------------------------------------------------------

def moe_config(**more):
    return hf_config(architectures=["Qwen3MoeForCausalLM"], num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                     norm_topk_prob=True) | more


def moe_tensors(count=4, width=32):
    random = np.random.default_rng(3)
    below = "model.layers.0.mlp."
    tensors = {name: x for name, x in hf_tensors().items() if ".mlp." not in name}
    norms = {f"model.layers.0.self_attn.{name}_norm.weight": np.ones(16, np.float32) for name in "qk"}
    shapes = {"gate.weight": (count, DIM)}
    for j in range(count):
        shapes |= {f"experts.{j}.{part}_proj.weight": (DIM, width) if part == "down" else (width, DIM) for part in ("gate", "up", "down")}
    return tensors | norms | {below + name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_a_missing_a_misshapen_and_a_further_expert_are_named(refuse, tmp_path):
    name = "model.layers.0.mlp.experts.3.up_proj.weight"
    tensors = moe_tensors()
    whole = tensors.pop(name)
    said = refuse(write_hf(tmp_path / "m", moe_config(), tensors))
    assert f"no tensor '{name}'" in said and f"[32,{DIM}]" in said
    said = refuse(write_hf(tmp_path / "m", moe_config(), tensors | {name: whole[:31].copy()}))
    assert f"'{name}' is [31,{DIM}], expected [32,{DIM}]" in said
    said = refuse(write_hf(tmp_path / "m", moe_config(), moe_tensors(5)))
    assert "'model.layers.0.mlp.gate.weight' is [5,64], expected [4,64]" in said
    further = moe_tensors() | {"model.layers.0.mlp.experts.4.up_proj.weight": whole}
    assert "extra tensor 'model.layers.0.mlp.experts.4.up_proj.weight'" in refuse(write_hf(tmp_path / "m", moe_config(), further))


@pytest.mark.parametrize("change, words", [
    ({"num_experts_per_tok": 5}, "a token chooses 5 of 4 experts"),
    ({"num_experts": 0}, "num_experts = 0"),
    ({"num_experts": "many"}, "num_experts = 'many'"),
    ({"moe_intermediate_size": -1}, "moe_intermediate_size = -1"),
    ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    ({"mlp_only_layers": 3}, "mlp_only_layers 3"),
    ({"use_sliding_window": True}, "use_sliding_window = True is not supported"),
])
def test_configs_that_do_not_fit(refuse, tmp_path, change, words):
    assert words in refuse(write_hf(tmp_path / "m", moe_config(**change), moe_tensors()))


def test_memory_does_not_grow_with_the_number_of_experts(convert, tmp_path):
    count, width = 64, 1024   # 48 MB of experts, of which one matrix has 256 kB
    source = write_hf(tmp_path / "m", moe_config(num_experts=count, moe_intermediate_size=width), moe_tensors(count, width))
    tracemalloc.start()
    folio = convert(source, "--type", "q8_0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert folio.tensors["layer.0.ffn.experts.up.weight"].shape == (count, width, DIM)
    assert peak < 16 << 20


# ---- DeepSeek's description, which the conversion of its attention will call -------------------------------------------

V2 = {"n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 32, "n_shared_experts": 2, "first_k_dense_replace": 1,
      "topk_method": "greedy", "n_group": 1, "topk_group": 1, "scoring_func": "softmax", "routed_scaling_factor": 1.0,
      "norm_topk_prob": False}
V3 = V2 | {"n_shared_experts": 1, "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4, "scoring_func": "sigmoid",
           "routed_scaling_factor": 2.5, "norm_topk_prob": True}


def deepseek(values, layers=4, tensors={}):
    return experts.deepseek(Config("config.json", values, {}), tensors, "silu", layers)


def test_deepseek():
    lite, sparse = deepseek(V2)
    assert sparse == [False, True, True, True]
    common = {"kind": "experts", "experts": 64, "chosen": 6, "dim": 32, "gated": 1, "act": "silu", "shared_gate": 0}
    assert lite.check().metadata() == common | {"scoring": "softmax", "normalise": 0, "scale": 1.0, "shared": 64}
    grouped, _ = deepseek(V2 | {"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "routed_scaling_factor": 16.0})
    assert (grouped.groups, grouped.kept, grouped.group_best, grouped.scale, grouped.bias) == (8, 3, 1, 16.0, False)
    third, _ = deepseek(V3)
    assert third.check().metadata() == common | {"scoring": "sigmoid", "normalise": 1, "scale": 2.5, "groups": 8, "groups_kept": 4,
                                                 "group_best": 2, "bias": 1, "shared": 32}
    native = {key: value for key, value in V3.items() if key not in ("topk_method", "scoring_func")}   # as transformers writes it
    assert deepseek(native | {"model_type": "deepseek_v3"})[0] == third
    assert deepseek(V2 | {"n_routed_experts": None}) == (None, [])
    names = [(w.name, w.shape, w.parts[-1].name, w.matrix) for w in third.wanted("layer.1.ffn.", 1, 128)]
    below = "model.layers.1.mlp."
    assert names == [
        ("layer.1.ffn.router.weight", (64, 128), below + "gate.weight", False),
        ("layer.1.ffn.router.bias", (64,), below + "gate.e_score_correction_bias", False),
        ("layer.1.ffn.experts.gate.weight", (64, 32, 128), below + "experts.63.gate_proj.weight", True),
        ("layer.1.ffn.experts.up.weight", (64, 32, 128), below + "experts.63.up_proj.weight", True),
        ("layer.1.ffn.experts.down.weight", (64, 128, 32), below + "experts.63.down_proj.weight", True),
        ("layer.1.ffn.shared.gate.weight", (32, 128), below + "shared_experts.gate_proj.weight", True),
        ("layer.1.ffn.shared.up.weight", (32, 128), below + "shared_experts.up_proj.weight", True),
        ("layer.1.ffn.shared.down.weight", (128, 32), below + "shared_experts.down_proj.weight", True)]


@pytest.mark.parametrize("change, words", [
    ({"n_group": 7}, "64 experts cannot stand in 7 groups"), ({"topk_group": 9}, "of which 9 are kept"),
    ({"num_experts_per_tok": 33}, "chooses 33 of 32 experts"),
    ({"n_group": 64, "topk_group": 32}, "groups of 1 experts cannot be ranked by 2"),
    ({"topk_method": "luck"}, "routes by luck of sigmoid"), ({"scoring_func": "tanh"}, "of tanh"),
    ({"routed_scaling_factor": "much"}, "scale of their weights is 'much'"), ({"routed_scaling_factor": -1.0}, "weights is -1.0"),
    ({"topk_method": "greedy"}, "norm_topk_prob = True is not supported"), ({"moe_layer_freq": 0}, "moe_layer_freq 0")])
def test_rules_of_deepseek_that_do_not_fit(change, words):
    with pytest.raises(ConvertError) as error:
        deepseek(V3 | change)[0].check()
    assert words in str(error.value)
