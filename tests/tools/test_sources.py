# SPDX-License-Identifier: MIT
"""Every kind of source converts, and the plain decoder finds in the result the logits that the source's own world computed."""
import itertools
import json

import numpy as np
import pytest
from builders import CONTEXT, DIM, FFN, LAYERS, VOCAB, floats, hf_config, hf_tensors, write_hf, write_llama2c
from conftest import GOLDEN
from plain_decoder import PlainDecoder

MODELS = sorted(path.parent.name for path in (GOLDEN / "hf").glob("*/shape.json"))


def numbers(path, kind, columns=None):
    data = np.fromfile(path, kind)
    return data.reshape(-1, columns) if columns else data


def golden(name):
    folder = GOLDEN / "hf" / name
    vocab = json.loads((folder / "shape.json").read_text())["vocab"]
    ids = np.concatenate([numbers(folder / "prompt.i32", "<i4"), numbers(folder / "ids.i32", "<i4")])
    logits = [numbers(folder / f"logits_{part}.f32", "<f4", vocab) for part in ("prompt", "decode")]
    return ids, np.concatenate(logits)


def test_there_are_golden_models():
    assert len(MODELS) >= 9


@pytest.mark.parametrize("name", MODELS)
def test_hugging_face(convert, name):
    folio = convert(GOLDEN / "hf" / name)
    assert folio.metadata["name"] == name and folio.verify() == []
    if folio.metadata["mixer.0.kind"] not in ("attention", "mla"):
        return   # PlainDecoder knows attention alone: test_models holds these against recurrent_reference.py
    if any(tensor.endswith(".sink") for tensor in folio.tensors):
        return   # nor learned sinks and experts with biases: test_models holds gpt-oss against PyTorch
    ids, want = golden(name)
    logits = PlainDecoder(folio).logits(ids)
    assert np.abs(logits - want).max() < 5e-5
    assert (logits.argmax(1) == want.argmax(1)).all()


def test_formats_of_the_source_stay(convert):
    kinds = lambda name: {e.format for e in convert(GOLDEN / "hf" / name).tensors.values() if e.name.endswith("qkv.weight")}
    assert kinds("llama") == {"f32"} and kinds("qwen2") == {"bf16"} and kinds("llama_linear") == {"f16"}


@pytest.mark.parametrize("kind, tolerance", [("f32", 5e-5), ("f16", 0.05), ("bf16", 0.3), ("q8_0", 0.3), ("q4_0", 5)])
def test_types(convert, kind, tolerance):
    folio = convert(GOLDEN / "hf" / "llama", "--type", kind)
    for e in folio.tensors.values():
        assert e.format == ("f32" if len(e.shape) == 1 else kind)
    ids, want = golden("llama")
    assert np.abs(PlainDecoder(folio).logits(ids[:20]) - want[:20]).max() < tolerance


def test_rows_that_are_no_blocks_fall_back(convert, tmp_path):
    source = write_hf(tmp_path / "m", hf_config(intermediate_size=40), {
        name: x[:40] if "gate" in name or "up_" in name else x[:, :40] if "down" in name else x for name, x in hf_tensors().items()})
    folio = convert(source, "--type", "q4_0")
    assert folio.tensors["layer.0.ffn.down.weight"].format == "f16" and folio.tensors["layer.0.ffn.up.weight"].format == "q4_0"
    assert "rows of 40 are not whole blocks of 32: f16, not q4_0" in convert.report


def test_stacked_rows(convert, tmp_path):
    tensors = hf_tensors()
    folio = convert(write_hf(tmp_path / "m", tensors=tensors))
    qkv = np.concatenate([tensors[f"model.layers.0.self_attn.{p}_proj.weight"] for p in "qkv"])
    assert np.array_equal(floats(folio, "layer.0.mix.qkv.weight"), qkv)
    assert "head.weight" not in folio.tensors and folio.metadata["name"] == "m"


def test_name_and_quiet(convert, tmp_path):
    folio = convert(write_hf(tmp_path / "m"), "--name", "Zwölf", "--quiet")
    assert folio.metadata["name"] == "Zwölf" and convert.report == ""


def test_prefix_of_gpt2_may_be_absent(convert, tmp_path):
    from folio import safetensors_file
    from safetensors.numpy import save_file
    folder = GOLDEN / "hf" / "gpt2"
    tensors = {name.removeprefix("transformer."): t.floats(0, t.rows).reshape(t.shape)
               for name, t in safetensors_file.read(str(folder / "model.safetensors"), lambda n: False).items()}
    tensors["h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.float32)  # the hub's files hold the mask
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    ours, theirs = convert(tmp_path / "m"), convert(folder, out="b.folio")
    assert all(np.array_equal(ours.raw(n), theirs.raw(n)) for n in theirs.tensors)


@pytest.mark.parametrize("name, scaling, want", [
    ("yarn", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "mscale": 0.5, "mscale_all_dim": 1.0},
     {"rope_factor": 4.0, "rope_original_context": 8, "rope_mscale": (0.05 * np.log(4) + 1) / (0.1 * np.log(4) + 1)}),
    ("yarn", {"type": "yarn", "factor": 2.0, "attention_factor": 1.5, "beta_fast": 16},
     {"rope_mscale": 1.5, "rope_beta_fast": 16.0, "rope_original_context": CONTEXT}),
    ("linear", {"type": "linear", "factor": 2}, {"rope_factor": 2.0}),
])
def test_rope_keys(convert, tmp_path, name, scaling, want):
    meta = convert(write_hf(tmp_path / "m", hf_config(rope_scaling=scaling, rope_theta=500.0))).metadata
    assert meta["mixer.0.rope_scaling"] == name and meta["mixer.0.theta"] == 500.0 and meta["mixer.0.rope"] == "half"
    for key, value in want.items():
        assert meta["mixer.0." + key] == pytest.approx(value), key


def test_windows_by_layer(convert, tmp_path):
    config = hf_config(architectures=["Qwen2ForCausalLM"], num_hidden_layers=2, use_sliding_window=True, sliding_window=8,
                       layer_types=["sliding_attention", "full_attention"])
    tensors = hf_tensors(2)
    for i, (p, n) in itertools.product(range(2), (("q", DIM), ("k", DIM // 2), ("v", DIM // 2))):
        tensors[f"model.layers.{i}.self_attn.{p}_proj.bias"] = np.full(n, i, np.float32)
    folio = convert(write_hf(tmp_path / "m", config, tensors))
    meta = folio.metadata
    assert [meta.get(f"mixer.{n}.window", 0) for n in meta["layer.mixer"]] == [8, 0]
    assert floats(folio, "layer.1.mix.qkv.bias").tolist() == [1.0] * (2 * DIM)


# ---- llama2.c, minGPT -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version, own_head", [(0, False), (0, True), (1, False), (1, True), (2, False), (2, True)])
def test_llama2c(convert, tmp_path, version, own_head):
    want = write_llama2c(tmp_path / "m.bin", version, own_head)
    folio = convert(tmp_path / "m.bin")
    meta = folio.metadata
    assert (meta["dim"], meta["layers"], meta["vocab"], meta["ffn.0.dim"], meta["mixer.0.rope"]) == (DIM, LAYERS, VOCAB, FFN, "adjacent")
    assert ("head.weight" in folio.tensors) == own_head and "int8" in convert.report or version < 2
    assert np.array_equal(floats(folio, "embed.weight"), want["tok_embeddings.weight"])
    for i in range(LAYERS):
        qkv = np.concatenate([want[f"layers.{i}.attention.w{p}.weight"] for p in "qkv"])
        assert np.array_equal(floats(folio, f"layer.{i}.mix.qkv.weight"), qkv)
        for ours, theirs in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            assert np.array_equal(floats(folio, f"layer.{i}.ffn.{ours}.weight"), want[f"layers.{i}.feed_forward.{theirs}.weight"])


def test_stories(convert, shared):
    folder = shared / "stories260K"
    ids = json.loads((folder / "golden_prompt.json").read_text())["ids"]
    want = numbers(folder / "golden_prompt.logits.f32", "<f4", 512)
    binary = convert(folder / "stories260K.bin", "--tokenizer", folder / "tok512.bin")
    gguf = convert(folder / "stories260K.gguf", out="gguf.folio")
    for folio in (binary, gguf):
        assert np.abs(PlainDecoder(folio).logits(ids) - want).max() < 1e-4
    assert all(np.array_equal(binary.raw(name), gguf.raw(name)) for name in binary.tensors)
    int8 = convert(folder / "stories260K-q8.bin", out="int8.folio")
    assert np.abs(floats(int8, "embed.weight") - floats(gguf, "embed.weight")).max() < 0.01


def test_sorting(convert, shared):
    folio = convert(shared / "gpt-nano-sort" / "gpt-nano-sort-model.json")
    model = PlainDecoder(folio)
    for digits in list(itertools.product(range(3), repeat=6))[::7]:
        ids = list(digits)
        for _ in range(6):
            ids.append(int(model.logits(np.array(ids))[-1].argmax()))
        assert ids[6:] == sorted(digits)


def test_torch_state_dict(convert, refuse, tmp_path):
    folder = write_hf(tmp_path / "m")
    try:
        import torch
    except ImportError:
        (folder / "m.pt").write_bytes(b"PK\x03\x04")
        assert "is of PyTorch before 1.6" in refuse(folder / "m.pt")
        return
    torch.save({name: torch.tensor(x) for name, x in hf_tensors().items()}, folder / "m.pt")
    ours, theirs = convert(folder / "m.pt"), convert(folder, out="b.folio")
    assert all(np.array_equal(ours.raw(n), theirs.raw(n)) for n in theirs.tensors)
    (folder / "model.safetensors").unlink()
    (folder / "m.pt").rename(folder / "pytorch_model.bin")
    assert np.array_equal(convert(folder).raw("embed.weight"), theirs.raw("embed.weight"))
    (folder / "bad.pt").write_bytes(b"PK\x03\x04")
    assert "bad.pt" in refuse(folder / "bad.pt")
