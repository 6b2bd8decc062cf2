# SPDX-License-Identifier: MIT
"""Whatever is wrong with the world: one sentence that names it, exit code 1, and no file."""
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from builders import CONTEXT, DIM, FFN, VOCAB, hf_config, hf_tensors, write_gguf, write_hf, write_llama2c
from conftest import GOLDEN, ROOT
from test_gguf import words as vocabulary
from test_tokenizers import PIECES, sentencepiece

TOOL = str(ROOT / "tools" / "convert.py")


def test_missing_extra_and_misshapen(refuse, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    tensors = hf_tensors()
    del tensors[name]
    said = refuse(write_hf(tmp_path / "m", tensors=tensors))
    assert f"no tensor '{name}'" in said and f"[{FFN},{DIM}]" in said
    tensors = hf_tensors() | {name: np.zeros((FFN, DIM + 1), np.float32)}
    said = refuse(write_hf(tmp_path / "m", tensors=tensors))
    assert f"'{name}' is [{FFN},{DIM + 1}], expected [{FFN},{DIM}]" in said
    tensors = hf_tensors() | {"model.layers.0.self_attn.q_proj.bias": np.zeros(DIM, np.float32)}
    said = refuse(write_hf(tmp_path / "m", tensors=tensors))
    assert "extra tensor 'model.layers.0.self_attn.q_proj.bias'" in said and f"[{DIM}]" in said


def test_the_same_in_gguf(refuse, tmp_path):
    assert "no tensor 'blk.1.ffn_up.weight'" in refuse(write_gguf(tmp_path / "m.gguf", drop=["blk.1.ffn_up.weight"]))
    said = refuse(write_gguf(tmp_path / "m.gguf", reshape={"blk.0.attn_k.weight": (DIM, DIM)}))
    assert f"'blk.0.attn_k.weight' is [{DIM},{DIM}], expected [{DIM // 2},{DIM}]" in said
    assert "extra tensor 'blk.0.odd.weight'" in refuse(write_gguf(tmp_path / "m.gguf", more={"blk.0.odd.weight": (3,)}))


@pytest.mark.parametrize("change, words", [
    ({"architectures": {"a": 1}}, ["architectures {'a': 1}; expected a text and a list of texts"]),
    ({"model_type": ["llama"]}, ["model_type ['llama'] and architectures"]),
    ({"architectures": ["FalconForCausalLM"]}, ["'FalconForCausalLM'", "LlamaForCausalLM", "Phi3ForCausalLM"]),
    ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, ["'longrope'", "yarn"]),
    ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ["'dynamic'"]),
    ({"rope_scaling": {"type": "linear"}}, ["'factor'"]),
    ({"hidden_act": "mish"}, ["'mish'", "silu"]),
    ({"hidden_size": None}, ["'hidden_size'"]),
    ({"hidden_size": "64"}, ["hidden_size"]),
    ({"num_key_value_heads": 3}, ["3 key groups"]),
    ({"num_hidden_layers": 0}, ["num_hidden_layers = 0"]),
    ({"num_hidden_layers": 10**9}, ["1000000000 layers"]),
    ({"rope_theta": "x"}, ["config.json' is damaged"]),
    ({"rope_theta": -1.0}, ["theta is -1.0"]),
    ({"vocab_size": VOCAB + 1}, ["model.embed_tokens.weight", f"[{VOCAB},{DIM}]", f"[{VOCAB + 1},{DIM}]"]),
    ({"quantization_config": {"quant_method": "gptq"}}, ["gptq"]),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}}, ["weight_block_size is [128]"]),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 0]}}, ["weight_block_size is [128, 0]"]),
    ({"quantization_config": "fp8"}, ["config.json' is damaged"]),
    ({"tie_word_embeddings": False}, ["no tensor 'lm_head.weight'"]),
])
def test_configs(refuse, tmp_path, change, words):
    said = refuse(write_hf(tmp_path / "m", hf_config(**change)))
    for word in words:
        assert word in said


@pytest.mark.parametrize("model, change, words", [
    ("gated_deltanet_gva", {"num_v_heads": 3}, "3 heads cannot share 2 key heads"),
    ("kda", {"num_heads": 4, "num_v_heads": 6}, "6 heads cannot share 4 key heads"),
    ("mamba2_fla", {"n_groups": 3}, "4 heads cannot share 3 key heads"),
    ("gla", {"num_kv_heads": 3}, "4 heads cannot share num_kv_heads 3"),
    ("gated_deltanet", {"head_dim": 17}, "'model.layers.0.attn.q_conv1d.weight' is [32,1,4], expected [34,1,4]"),
    ("log_linear_mamba2", {"max_position_embeddings": 16385}, "15 levels end after 16384 tokens, and the model's max_position_embeddings is 16385"),
    ("h_gated_deltanet", {"num_levels": 11}, "11 levels end after 1024 tokens, and the model's max_position_embeddings is 2048"),
    ("h_gated_deltanet", {"num_levels": 16}, "'model.layers.0.attn.L' is [2,15], expected [2,16]"),
])
def test_configs_of_recurrent_models(refuse, tmp_path, model, change, words):
    shutil.copytree(GOLDEN / "hf" / model, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | change))
    assert words in refuse(tmp_path / "m")


@pytest.mark.parametrize("keys, word", [
    ({"llama.expert_count": 8}, "8 experts"), ({"split.count": 3}, "one of 3 parts"), ({"llama.rope.scaling.type": "longrope"}, "longrope"),
    ({"llama.attention.value_length": 8}, "values of 8"), ({"llama.rope.scaling.type": "odd"}, "'odd'")])
def test_keys_of_gguf(refuse, tmp_path, keys, word):
    assert word in refuse(write_gguf(tmp_path / "m.gguf", keys=keys))


def test_unknown_architecture_of_gguf(refuse, tmp_path):
    said = refuse(write_gguf(tmp_path / "m.gguf", arch="falcon"))
    assert "'falcon'" in said and "gpt2, llama, phi3, qwen2, qwen3" in said


@pytest.mark.parametrize("make", [
    lambda p: write_gguf(p / "m.gguf", "Q8_0"), lambda p: write_llama2c(p / "m.bin", 0) and p / "m.bin",
    lambda p: write_llama2c(p / "m.bin", 2) and p / "m.bin", lambda p: write_hf(p / "m") / "model.safetensors"])
def test_truncated(refuse, tmp_path, make):
    path = make(tmp_path)
    source = path.parent if path.suffix == ".safetensors" else path
    whole = path.read_bytes()
    for length in (0, 1, 5, 20, 27, 60, 260, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert path.name in refuse(source) or length < 64
    if path.suffix == ".bin":
        path.write_bytes(whole + b"\0")
        assert "1 bytes after its last tensor" in refuse(source)


def test_random_damage_never_crashes(tmp_path, capsys):
    """A flipped byte may go unnoticed in the data of others' formats, but never ends in a traceback or a large allocation."""
    import convert as tool
    random = np.random.default_rng(4)
    gguf, words = write_gguf(tmp_path / "m.gguf", "Q4_0"), write_gguf(tmp_path / "w.gguf", vocabulary=vocabulary)
    safetensors = write_hf(tmp_path / "m") / "model.safetensors"
    (tmp_path / "m" / "tokenizer.json").write_bytes((GOLDEN / "tokenizer_json" / "llama" / "tokenizer.json").read_bytes())
    config, tokenizer, bare = tmp_path / "m" / "config.json", tmp_path / "m" / "tokenizer.json", write_hf(tmp_path / "bare")
    model = tmp_path / "tokenizer.model"
    model.write_bytes(sentencepiece(PIECES))
    for path, source, head in ((gguf, [gguf], 2500), (words, [words], 1200), (safetensors, [safetensors.parent], 1200),
                               (config, [bare.parent / "m"], 400), (tokenizer, [bare, "--tokenizer", tokenizer], 4000),
                               (model, [bare, "--tokenizer", model], 200)):
        whole = path.read_bytes()
        for _ in range(100):
            bad = bytearray(whole)
            for at in random.integers(0, min(head, len(bad)), random.integers(1, 4)):
                bad[at] = random.integers(0, 256)
            path.write_bytes(bad)
            assert tool.main([*map(str, source), "-o", str(tmp_path / "x.folio"), "--quiet"]) in (0, 1)
            (tmp_path / "x.folio").unlink(missing_ok=True)
        path.write_bytes(whole)
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.glob("*.part"))


def test_headers_of_safetensors(refuse, tmp_path):
    folder = write_hf(tmp_path / "m")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:8 + size])

    def with_header(change):
        raw = json.dumps(header | change).encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + whole[8 + size:])
        return refuse(folder)

    norm = header["model.norm.weight"]
    assert "F64" in with_header({"model.norm.weight": norm | {"dtype": "F64"}})
    assert "bytes of data" in with_header({"model.norm.weight": norm | {"shape": [DIM + 1]}})
    assert "bytes of data" in with_header({"model.norm.weight": norm | {"shape": [-DIM, -1]}})
    assert "truncated" in with_header({"model.norm.weight": norm | {"data_offsets": [0, 10**15]}})
    assert "damaged" in with_header({"model.norm.weight": 3})
    path.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
    assert "header claims" in refuse(folder)


def test_shards(refuse, convert, tmp_path):
    import shutil
    folder = tmp_path / "qwen3"
    shutil.copytree(GOLDEN / "hf" / "qwen3", folder)
    convert(folder)
    shard = next(folder.glob("model-00002*"))
    raw = shard.read_bytes()
    shard.unlink()
    assert shard.name in refuse(folder)
    shard.write_bytes(raw)
    index = folder / "model.safetensors.index.json"
    text = json.loads(index.read_text())
    text["weight_map"]["model.layers.9.odd.weight"] = shard.name
    index.write_text(json.dumps(text))
    assert "model.layers.9.odd.weight" in refuse(folder)
    text["weight_map"] = {"a": "../../etc/passwd"}
    index.write_text(json.dumps(text))
    assert "not a file of this folder" in refuse(folder)
    index.unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in refuse(folder)


def test_sources_that_are_none(refuse, tmp_path):
    assert "nowhere.gguf" in refuse(tmp_path / "nowhere.gguf")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refuse(tmp_path / "empty")
    for name, data, word in (("x.bin", b"\xff" * 100, "no known kind"), ("x.json", b"{", "JSON"), ("y.json", b"{}", "minGPT"),
                             ("x.safetensors", b"x" * 99, "truncated or no safetensors file"), ("v.bin", b"24ka\x07\0\0\0" + bytes(300), "version 7")):
        (tmp_path / name).write_bytes(data)
        assert word in refuse(tmp_path / name)
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x01\0\0\0" + bytes(100))
    assert "version 1" in refuse(tmp_path / "model.gguf")


def test_minGPT(refuse, tmp_path):
    path = tmp_path / "m.json"
    config = dict(n_layer=1, n_head=2, n_embd=4, vocab_size=3, block_size=5)
    path.write_text(json.dumps({"config": config, "a": {"shape": [2], "dtype": "torch.float32", "data": "AAAA"}}))
    assert "'a'" in refuse(path)
    path.write_text(json.dumps({"config": config, "a": {"shape": [2], "dtype": "torch.float32", "data": "?"}}))
    assert "base64" in refuse(path)
    path.write_text(json.dumps({"config": config}))
    assert "transformer.wte.weight" in refuse(path)


def test_outputs(refuse, tmp_path, capsys):
    import convert as tool
    source = write_hf(tmp_path / "m")
    assert "no/such" in refuse(source, out=tmp_path / "no/such/x.folio")
    assert "/proc" in refuse(source, out="/proc/x.folio")
    gguf = write_gguf(tmp_path / "m.gguf")
    assert tool.main([str(gguf), "-o", str(gguf)]) == 1 and "source itself" in capsys.readouterr().err
    (tmp_path / "taken.folio").mkdir()
    assert tool.main([str(source), "-o", str(tmp_path / "taken.folio")]) == 1
    assert "taken.folio" in capsys.readouterr().err and not list(tmp_path.glob("*.part"))


def test_the_way_back_needs_gguf(refuse, convert, tmp_path):
    convert(write_hf(tmp_path / "m"))
    assert "was not made from a GGUF" in refuse(tmp_path / "out.folio", out=tmp_path / "x.gguf")
    assert "already" in refuse(tmp_path / "out.folio", out=tmp_path / "x.folio")
    convert(write_gguf(tmp_path / "m.gguf"))
    raw = bytearray((tmp_path / "out.folio").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "out.folio").write_bytes(raw)
    assert "head.weight" in refuse(tmp_path / "out.folio", out=tmp_path / "x.gguf")


def test_values_that_do_not_fit(refuse, tmp_path):
    tensors = hf_tensors()
    tensors["model.embed_tokens.weight"][3, 3] = 1e6
    source = write_hf(tmp_path / "m", tensors=tensors)
    said = refuse(source, "--type", "f16")
    assert "embed.weight" in said and "1e+06" in said
    tensors["model.embed_tokens.weight"][3, 3] = np.nan
    assert "NaN" in refuse(write_hf(tmp_path / "m", tensors=tensors), "--type", "q8_0")


def test_command_line(tmp_path):
    """The program as it is called: help with examples, one line on stderr, exit codes."""
    run = lambda *args: subprocess.run([sys.executable, TOOL, *args], capture_output=True, text=True)
    help = run("--help")
    assert help.returncode == 0 and "examples" in help.stdout and "--tokenizer" in help.stdout
    wrong = run(str(tmp_path / "x"), "-o", str(tmp_path / "y"))
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and not wrong.stdout
    for flags in (["--no-such-flag"], ["x"], ["x", "-o", "y", "--type", "q9"]):
        wrong = run(*flags)
        assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and wrong.stderr.startswith("convert.py: ")
    good = run(str(GOLDEN / "hf" / "gpt2"), "-o", str(tmp_path / "y.folio"))
    assert good.returncode == 0 and "layer.0-1.mix.qkv.weight" in good.stdout and good.stderr == ""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path, stop):
    """A large file, mostly a hole; the signal arrives while its copy grows."""
    dim, ffn, layers, heads, vocab = 2048, 8192, 16, 32, 8000
    numbers = vocab * dim + layers * (2 * dim + 4 * dim * dim + 3 * dim * ffn) + dim + CONTEXT * dim // heads
    with open(tmp_path / "m.bin", "wb") as file:
        file.write(struct.pack("<7i", dim, ffn, layers, heads, heads, vocab, CONTEXT))
        file.truncate(28 + 4 * numbers)
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen([sys.executable, TOOL, str(tmp_path / "m.bin"), "-o", str(out / "x.folio"), "--type", "q8_0"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part, start = out / "x.folio.part", time.monotonic()
    while not (part.exists() and part.stat().st_size > 4_000_000):
        assert process.poll() is None and time.monotonic() - start < 60, process.communicate()
        time.sleep(0.01)
    process.send_signal(stop)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped" in error and "Traceback" not in error
    assert os.listdir(out) == []
