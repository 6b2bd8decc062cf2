# SPDX-License-Identifier: MIT
"""Hugging Face folders with float8 matrices: their bytes and scales arrive as they are, or become the floats that they stand for."""
import numpy as np
import pytest
from builders import DIM, GROUPS, LAYERS, SIZE, VOCAB, floats, hf_config, hf_tensors, write_gguf, write_hf, write_hf_float8

from folio import quant

FFN = 192
QUANTISED = {"quant_method": "fp8", "weight_block_size": [32, 64]}
CONFIG = hf_config(intermediate_size=FFN, quantization_config=QUANTISED)


def matrices():
    random = np.random.default_rng(6)
    kv = GROUPS * SIZE
    shapes = {"self_attn.q_proj": (DIM, DIM), "self_attn.k_proj": (kv, DIM), "self_attn.v_proj": (kv, DIM), "self_attn.o_proj": (DIM, DIM),
              "mlp.gate_proj": (FFN, DIM), "mlp.up_proj": (FFN, DIM), "mlp.down_proj": (DIM, FFN)}
    return {f"model.layers.0.{name}.weight": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def checkpoint(scale_shape, end):
    """Tensors of a file, and name -> (bytes, scale of each weight). scale_shape(rows, columns) -> shape stored, rows, columns of a scale"""
    random = np.random.default_rng(7)
    tensors = {name: x for name, x in hf_tensors().items() if x.ndim == 1 or "embed" in name}
    truth = {}
    for name, x in matrices().items():
        shape, rows, columns = scale_shape(*x.shape)
        scale = random.uniform(0.001, 0.01, (-(-x.shape[0] // rows), -(-x.shape[1] // columns))).astype(np.float32)
        each = scale.repeat(rows, axis=0).repeat(columns, axis=1)[:x.shape[0], :x.shape[1]]
        tensors[name] = quant.to_e4m3(x / each)
        truth[name] = tensors[name], each
        if shape is not None:
            tensors[name + end] = scale.reshape(shape)
    return tensors, truth


BLOCKS = lambda n, k: ((-(-n // 32), -(-k // 64)), 32, 64)
KINDS = [(BLOCKS, "_scale_inv"), (BLOCKS, "_scale"), (lambda n, k: ((), n, k), "_scale"), (lambda n, k: ((1,), n, k), "_scale_inv"),
         (lambda n, k: ((n, 1), 1, k), "_scale"), (lambda n, k: ((n,), 1, k), "_scale")]


def parts(name):
    layer = "layer.0."
    ours = {"o_proj": "mix.out", "gate_proj": "ffn.gate", "up_proj": "ffn.up", "down_proj": "ffn.down"}
    return layer + ours[name.split(".")[-2]] + ".weight"


@pytest.mark.parametrize("scale_shape, end", KINDS)
@pytest.mark.parametrize("flags", [[], ["--type", "f8_e4m3"]])
def test_bytes_and_scales_are_carried(convert, tmp_path, scale_shape, end, flags):
    tensors, truth = checkpoint(scale_shape, end)
    folio = convert(write_hf_float8(tmp_path / "m", CONFIG, tensors), *flags)
    stacked = [np.concatenate([truth[f"model.layers.0.self_attn.{p}_proj.weight"][i] for p in "qkv"]) for i in range(2)]
    expected = {parts(name): pair for name, pair in truth.items() if "q_proj" not in name and "k_proj" not in name and "v_proj" not in name}
    for name, (q, each) in (expected | {"layer.0.mix.qkv.weight": stacked}).items():
        assert folio.tensors[name].format == "f8_e4m3", name
        blocks = folio.raw(name).reshape(len(q), -1, 68)
        assert np.array_equal(blocks[..., 4:].reshape(q.shape), q), name
        assert np.array_equal(blocks[..., :4].copy().view(np.float32)[..., 0], each[:, ::64]), name
    assert folio.tensors["embed.weight"].format == ("f8_e4m3" if flags else "f32")


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_other_formats_come_from_the_floats(convert, tmp_path, kind):
    tensors, truth = checkpoint(BLOCKS, "_scale_inv")
    folio = convert(write_hf_float8(tmp_path / "m", CONFIG, tensors), "--type", kind)
    for name, (q, each) in truth.items():
        if "o_proj" in name or "down" in name:
            want = quant.from_float(kind, quant.E4M3[q] * each)
            assert folio.tensors[parts(name)].format == kind and np.array_equal(folio.raw(parts(name)), want)


def test_without_scales_the_numbers_are_the_weights(convert, tmp_path):
    tensors, truth = checkpoint(lambda n, k: (None, n, k), "")
    folio = convert(write_hf_float8(tmp_path / "m", CONFIG, tensors))
    for name, (q, _) in truth.items():
        if "o_proj" in name:
            assert folio.tensors[parts(name)].format == "f8_e4m3" and np.array_equal(floats(folio, parts(name)), quant.E4M3[q])


def test_scales_that_change_within_a_block_of_ours(convert, tmp_path):
    tensors, truth = checkpoint(lambda n, k: ((-(-n // 32), -(-k // 32)), 32, 32), "_scale_inv")
    config = CONFIG | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}}
    folio = convert(write_hf_float8(tmp_path / "m", config, tensors))
    assert folio.tensors["layer.0.mix.out.weight"].format == "f16" and "from float8" in convert.report
    folio = convert(tmp_path / "m", "--type", "f32")
    q, each = truth["model.layers.0.self_attn.o_proj.weight"]
    assert np.array_equal(floats(folio, "layer.0.mix.out.weight"), quant.E4M3[q] * each)


def test_scales_of_activations_are_left_out(convert, tmp_path):
    tensors, _ = checkpoint(BLOCKS, "_scale_inv")
    for end in ("self_attn.k_scale", "self_attn.q_proj.input_scale", "mlp.up_proj.input_scale_ub"):
        tensors["model.layers.0." + end] = np.float32(0.5).reshape(())
    convert(write_hf_float8(tmp_path / "m", CONFIG, tensors))
    assert "scales of activations are left out" in convert.report


@pytest.mark.parametrize("kind", ["llama", "gguf"])
def test_plain_weights_are_quantised(convert, tmp_path, kind):
    if kind == "gguf":
        folio = convert(write_gguf(tmp_path / "m.gguf", "F32"), "--type", "f8_e4m3")
        assert folio.metadata["layers"] == LAYERS
    else:
        tensors = hf_tensors()
        folio = convert(write_hf(tmp_path / "m", tensors=tensors), "--type", "f8_e4m3")
        assert np.array_equal(folio.raw("embed.weight"), quant.from_float("f8_e4m3", tensors["model.embed_tokens.weight"]))
    assert folio.tensors["embed.weight"].format == "f8_e4m3" and folio.tensors["embed.weight"].bytes == VOCAB * 68
    assert folio.tensors["layer.0.ffn.down.weight"].format == "f16"
    assert "rows of 96 are not whole blocks of 64: f16, not f8_e4m3" in convert.report


def test_scales_that_do_not_fit(refuse, tmp_path):
    name = "model.layers.0.mlp.down_proj.weight"
    tensors, _ = checkpoint(BLOCKS, "_scale_inv")
    for shape in ((3, 2), (2, 4), (DIM, 2), (FFN,), (2, 3, 1)):
        bad = tensors | {name + "_scale_inv": np.ones(shape, np.float32)}
        said = refuse(write_hf_float8(tmp_path / "m", CONFIG, bad))
        text = ",".join(map(str, shape))
        assert f"'{name}' of float8 is [{DIM},{FFN}] and its scales '{name}_scale_inv' are [{text}]" in said and "32 x 64" in said
    bad = tensors | {name + "_scale_inv": np.ones((2, 3), np.uint8)}
    assert "scales" in refuse(write_hf_float8(tmp_path / "m", CONFIG, bad))
    bad = tensors | {"model.layers.0.mlp.odd.weight_scale": np.ones(1, np.float32)}
    assert "extra tensor 'model.layers.0.mlp.odd.weight_scale'" in refuse(write_hf_float8(tmp_path / "m", CONFIG, bad))


def test_not_of_gpt2(refuse, tmp_path):
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": DIM, "n_layer": 1, "n_head": 4, "vocab_size": VOCAB, "n_positions": 32}
    said = refuse(write_hf_float8(tmp_path / "m", config, {"wte.weight": np.zeros((VOCAB, DIM), np.uint8)}))
    assert "GPT-2 with float8" in said
