# SPDX-License-Identifier: MIT
"""GGUF in, bit for bit, and back again. The gguf package writes the files and reads ours."""
import gguf
import numpy as np
import pytest
from builders import DIM, FFN, LAYERS, VOCAB, floats, write_gguf

from folio import gguf_file

KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]


def words(writer):
    """A byte-level vocabulary of VOCAB tokens, with odd ones."""
    tokens = ["<|endoftext|>", *"abcdefgh", "Ġ", "Ġa", "Ġb", "ab", "abc", "Ċ", "é", "[PAD]", "<|im_end|>"]
    types = [3] + [1] * 15 + [5, 3]
    tokens += [f"t{i}" for i in range(VOCAB - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types + [4] * (VOCAB - len(types)))
    writer.add_token_merges(["Ġ a", "Ġ b", "a b", "ab c"])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    writer.add_array("general.tags", ["x", "y"])


def both(path):
    """Keys and tensors as the gguf package reads them."""
    reader = gguf.GGUFReader(str(path))
    keys = {name: (f.types, f.contents()) for name, f in reader.fields.items()}
    return keys, {t.name: (t.tensor_type, tuple(t.shape), t.data.tobytes()) for t in reader.tensors}


def way_back(convert, source):
    convert(source)
    back = source.parent / "back.gguf"
    convert(source.parent / "out.folio", out="back.gguf")
    return back


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(convert, tmp_path, kind):
    source = write_gguf(tmp_path / "m.gguf", kind, vocabulary=words)
    folio = convert(source)
    assert folio.tensors["layer.1.mix.qkv.weight"].format == kind.lower() and folio.tensors["norm_out.weight"].format == "f32"
    back = way_back(convert, source)
    assert both(back) == both(source) and back.read_bytes() == source.read_bytes()


def test_stacking_is_exact(convert, tmp_path):
    source = write_gguf(tmp_path / "m.gguf", "Q4_0")
    folio, reader = convert(source), gguf.GGUFReader(str(source))
    raw = {t.name: t.data.tobytes() for t in reader.tensors}
    for i in range(LAYERS):
        assert folio.raw(f"layer.{i}.mix.qkv.weight").tobytes() == b"".join(raw[f"blk.{i}.attn_{p}.weight"] for p in "qkv")


def test_narrow_norms_return(convert, tmp_path):
    source = write_gguf(tmp_path / "m.gguf", "BF16", norms="F16")
    assert both(way_back(convert, source)) == both(source)


def test_mixed_formats(convert, tmp_path):
    source = write_gguf(tmp_path / "m.gguf", "Q4_0", kinds={"attn_v": "Q8_0", "output.weight": "Q8_0", "ffn_down": "F16"})
    folio = convert(source)
    names = ("layer.0.mix.qkv.weight", "head.weight", "layer.0.ffn.down.weight", "embed.weight")
    assert [folio.tensors[name].format for name in names] == ["q8_0", "q8_0", "f16", "q4_0"]
    assert "from q4_0, q8_0, the widest kept" in convert.report
    assert floats(folio, "layer.0.mix.qkv.weight").shape == (2 * DIM, DIM)


def test_foreign_formats(convert, tmp_path):
    source = write_gguf(tmp_path / "m.gguf", "Q8_0", kinds={"ffn_up": "Q5_1"})
    folio = convert(source)
    assert folio.tensors["layer.0.ffn.up.weight"].format == "f16" and "from Q5_1" in convert.report
    x = next(t for t in gguf.GGUFReader(str(source)).tensors if t.name == "blk.0.ffn_up.weight")
    want = gguf.quants.dequantize(x.data, x.tensor_type).astype(np.float16)
    assert np.array_equal(floats(folio, "layer.0.ffn.up.weight").astype(np.float16), want)
    assert convert(source, "--type", "q4_0").tensors["layer.0.ffn.up.weight"].format == "q4_0"


def test_converted_on_the_way(convert, tmp_path):
    """With --type the way back has the new format, and still every tensor and key."""
    source = write_gguf(tmp_path / "m.gguf", "F32", vocabulary=words)
    convert(source, "--type", "q8_0")
    back = convert(tmp_path / "out.folio", out="back.gguf")
    keys, tensors = both(back)
    assert keys == both(source)[0] and list(tensors) == list(both(source)[1])
    assert tensors["blk.0.attn_k.weight"][0] == gguf.GGMLQuantizationType.Q8_0


def test_f8_cannot_go_back(convert, refuse, tmp_path):
    convert(write_gguf(tmp_path / "m.gguf", "F16", vocabulary=words), "--type", "f8_e4m3")
    said = refuse(tmp_path / "out.folio", out=tmp_path / "back.gguf")
    assert "'token_embd.weight' is f8_e4m3, a format that GGUF does not have" in said and "--type" in said


def test_keys(convert, tmp_path):
    keys = {"freq_base": 5e5, "dimension_count": 8, "scaling.type": "linear", "scaling.factor": 2.0}
    meta = convert(write_gguf(tmp_path / "m.gguf", keys={"llama.rope." + key: value for key, value in keys.items()})).metadata
    assert (meta["name"], meta["dim"], meta["layers"], meta["vocab"], meta["ffn.0.dim"]) == ("tiny", DIM, LAYERS, VOCAB, FFN)
    assert [meta["mixer.0." + key] for key in ("theta", "rope_dims", "rope_scaling", "rope_factor")] == [5e5, 8, "linear", 2.0]
    assert meta["mixer.0.rope"] == "adjacent"


def test_llama3_divisors(convert, refuse, tmp_path):
    """GGUF stores Llama 3's scaling as a tensor; its parameters are found again."""
    n, theta, factor, original = DIM // 4, 5e5, 8.0, 8192
    turns = original / (2 * np.pi * theta ** (2 * np.arange(n // 2) / n))
    smooth = np.clip((turns - 1) / 3, 0, 1)
    divisors = (1 / (smooth + (1 - smooth) / factor)).astype(np.float32)
    source = write_gguf(tmp_path / "m.gguf", keys={"llama.rope.freq_base": theta}, more={"rope_freqs.weight": (n // 2,)})
    raw = bytearray(source.read_bytes())
    stored = gguf_file.read(str(source)).tensors["rope_freqs.weight"]
    at = bytes(raw).index(bytes(stored.data))
    raw[at:at + divisors.nbytes] = divisors.tobytes()
    source.write_bytes(raw)
    meta = convert(source).metadata
    assert [meta["mixer.0.rope_" + key] for key in ("scaling", "factor", "original_context")] == ["llama3", 8, 8192]
    assert both(way_back(convert, source)) == both(source)
    raw[at + 3] ^= 0x40
    source.write_bytes(raw)
    assert "rope_freqs.weight" in refuse(source)


@pytest.mark.parametrize("arch, names, want", [
    ("qwen2", {f"blk.{i}.attn_{p}.bias": (n,) for i in range(LAYERS) for p, n in (("q", DIM), ("k", DIM // 2), ("v", DIM // 2))},
     {"mixer.0.rope": "half"}),
    ("qwen3", {f"blk.{i}.attn_{p}_norm.weight": (DIM // 4,) for i in range(LAYERS) for p in "qk"}, {"mixer.0.qk_norm": 1}),
])
def test_other_architectures(convert, tmp_path, arch, names, want):
    source = write_gguf(tmp_path / "m.gguf", "F16", arch=arch, more=names)
    folio = convert(source)
    assert {key: folio.metadata[key] for key in want} == want
    assert ("layer.0.mix.qkv.bias" in folio.tensors) == (arch == "qwen2")
    assert both(way_back(convert, source)) == both(source)


def test_fused(convert, tmp_path):
    gone = [f"blk.{i}.{n}.weight" for i in range(LAYERS) for n in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")]
    more = {f"blk.{i}.{n}.weight": (rows, DIM) for i in range(LAYERS) for n, rows in (("attn_qkv", 2 * DIM), ("ffn_up", 2 * FFN))}
    source = write_gguf(tmp_path / "m.gguf", "Q8_0", arch="phi3", drop=[n for n in gone if n not in more], more=more)
    folio = convert(source)
    raw = {t.name: t.data.tobytes() for t in gguf.GGUFReader(str(source)).tensors}
    halves = folio.raw("layer.1.ffn.gate.weight").tobytes() + folio.raw("layer.1.ffn.up.weight").tobytes()
    assert raw["blk.1.ffn_up.weight"] == halves and raw["blk.1.attn_qkv.weight"] == folio.raw("layer.1.mix.qkv.weight").tobytes()
    assert both(way_back(convert, source)) == both(source)


def test_real_files(convert, shared, tmp_path):
    for source in (shared / "stories260K/stories260K.gguf", *shared.glob("tokenizers/*.gguf")):
        folio = tmp_path / "out.folio"
        convert(source)
        back = convert(folio, out="back.gguf")
        assert back.read_bytes() == source.read_bytes(), source.name


