# SPDX-License-Identifier: MIT
"""Vocabularies of every kind, bent into one form: bytes, types, merges or scores, and the ids that the originals give."""
import json
import struct
import unicodedata

import numpy as np
import pytest
from builders import VOCAB, hf_config, write_gguf, write_hf, write_llama2c
from conftest import GOLDEN

from folio import ConvertError, splits, vocabulary, vocabulary_hf, vocabulary_json, vocabulary_spm
from folio.stored import map_file
from folio.vocabulary import ADDED, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, from_folio, from_letters, to_letters

GOLDEN_JSON = GOLDEN / "tokenizer_json"


def merge_word(v, word):
    """Ids of one word: byte pairs by rank, or by score, the plain way."""
    ids = {t: i for i, t in reversed(list(enumerate(v.tokens))) if v.types[i] in (NORMAL, ADDED)}
    parts = [word[i:i + 1] for i in range(len(word))] if v.kind == "bpe" else [c.encode() for c in word.decode()]
    if v.kind == "bpe":
        rank = {(v.tokens[a], v.tokens[b]): r for r, (a, b) in reversed(list(enumerate(v.merges.tolist())))}
        cost = lambda a, b: rank.get((a, b))
    else:
        cost = lambda a, b: -v.scores[ids[a + b]] if a + b in ids else None
    while True:
        costs = [(cost(a, b), i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if cost(a, b) is not None]
        if not costs:
            break
        _, i = min(costs)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    byte = {v.tokens[i]: i for i in range(len(v.tokens)) if v.types[i] == BYTE}
    return [i for p in parts for i in ([ids[p]] if p in ids else [byte[p[k:k + 1]] for k in range(len(p))])]


def test_gpt2_letters():
    assert to_letters(b" \n\x00a\xff") == "ĠĊĀaÿ"
    assert all(from_letters(to_letters(bytes([b]))) == bytes([b]) for b in range(256))
    assert len(set(vocabulary.LETTER.values())) == 256
    assert from_letters("дом") == "дом".encode()  # not written in it


@pytest.mark.parametrize("name", sorted(p.name for p in GOLDEN_JSON.iterdir()))
def test_ids_spell_the_text(convert, name):
    v = from_folio(convert(GOLDEN_JSON / name))
    for text, ids in json.loads((GOLDEN_JSON / name / "ids.json").read_text()):
        spelt = b"".join(v.tokens[i] for i in ids)
        if v.kind == "bpe":
            assert spelt == (unicodedata.normalize("NFC", text) if v.normalize == "nfc" else text).encode()
        elif v.unk not in ids and "<|end|>" not in text and text:
            clean = unicodedata.normalize("NFKC", text.strip()) if name == "unigram" else text
            assert spelt.decode() == " " + clean


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "llama"])
def test_merges_and_scores_order_alike(convert, name):
    """Words that no pattern cuts get the ids that the tokenizers library gives them."""
    v = from_folio(convert(GOLDEN_JSON / name))
    pairs = dict(json.loads((GOLDEN_JSON / name / "ids.json").read_text()))
    words = [(text, pairs[text]) for text in ("house", " river", "carpenter")]
    for text, ids in words:
        assert merge_word(v, (b" " if v.add_space_prefix else b"") + text.encode()) == ids


def test_what_tokenizer_json_says(convert):
    read = lambda name: from_folio(convert(GOLDEN_JSON / name))
    gpt2, llama3, qwen2, digits, llama, unigram = map(read, ("gpt2", "llama3", "qwen2", "digits", "llama", "unigram"))
    assert (gpt2.kind, gpt2.split, gpt2.normalize, gpt2.add_bos) == ("bpe", [splits.GPT2], "none", 0)
    assert (llama3.split, llama3.ignore_merges, llama3.add_bos, llama3.bos) == ([splits.LLAMA3], 1, 1, 0)
    assert (qwen2.split, qwen2.normalize) == ([splits.QWEN2], "nfc")
    assert digits.split == [r"\p{N}", splits.PUNCTUATION, splits.GPT2]
    assert (llama.kind, llama.add_space_prefix, llama.add_bos, llama.bos, llama.unk) == ("spm", 1, 1, 1, 0)
    end = llama.tokens.index(b"<|end|>")
    assert llama.eos == [2, end] and llama.strip_right == [end] and llama.types[end] == CONTROL
    assert llama.types[:3] == [UNKNOWN, CONTROL, CONTROL] and llama.types[3:259] == [BYTE] * 256
    assert llama.tokens[3 + 65] == b"A" and b" t" in llama.tokens
    assert (unigram.kind, unigram.normalize, unigram.remove_extra_spaces) == ("unigram", "nfkc", 1) and min(unigram.scores) < -3


@pytest.mark.parametrize("change, word", [
    ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "pre-tokenizer BertPreTokenizer"),
    ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": " "}, "behavior": "MergedWithNext"}}, "MergedWithNext"),
    ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"[\p{L}&&[^a]]+"}, "behavior": "Isolated"}}, "classes"),
    ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\h+"}, "behavior": "Isolated"}}, r"\\h"),
    ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "type WordPiece"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "merge 0 of the tokenizer, 'a b'"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}}, "merge"),
    ({"model": {"type": "BPE", "vocab": {"a": 10**12}, "merges": []}}, "ids"),
    ({"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}}, "damaged"),
    ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    ({"model": 3}, "no vocabulary"),
])
def test_refusals_name_the_part(change, word):
    text = json.loads((GOLDEN_JSON / "gpt2" / "tokenizer.json").read_text()) | change
    with pytest.raises(ConvertError, match=word):
        vocabulary_json.load("t.json", text).check()


def test_classes_with_brackets_in_them_are_fine():
    for pattern in (r"[!\[\]]+", r"[[:alpha:]]+", r"\[[^\]]*\]", splits.LLAMA3, splits.TEKKEN):
        assert splits._pattern(pattern) == pattern


# ---- folders ----------------------------------------------------------------------------------------------------------

def letters(tokens):
    """The parts of a byte-level tokenizer.json with these tokens."""
    return {"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": []}, "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "decoder": {"type": "ByteLevel"}}


def test_small_files_beside_it(convert, tmp_path):
    text = letters(["a", "b", "<s>", "<|im_end|>"])
    text["added_tokens"] = [{"id": 2, "content": "<s>", "special": True}, {"id": 3, "content": "<|im_end|>", "special": True}]
    folder = write_hf(tmp_path / "m", hf_config(eos_token_id=1))
    (folder / "tokenizer.json").write_text(json.dumps(text))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": {"content": "<s>"}, "add_bos_token": True, "added_tokens_decoder": {
            "3": {"content": "<|im_end|>", "special": True}, "6": {"content": "<extra>", "special": False, "lstrip": True}},
        "chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 3]}))
    folio = convert(folder)
    v = from_folio(folio)
    assert len(v.tokens) == VOCAB and f"ids 7 to {VOCAB - 1} are unused" in convert.report
    assert (v.bos, v.add_bos, v.eos, v.strip_left) == (2, 1, [0, 1, 3], [6])
    assert (v.tokens[4:8], v.types[4:8]) == ([b"", b"", b"<extra>", b""], [UNUSED, UNUSED, ADDED, UNUSED])
    assert folio.metadata["chat.template"] == "yes"
    (folder / "chat_template.jinja").write_text("{{ 'file' }}")
    assert convert(folder).metadata["chat.template"] == "{{ 'file' }}"


def test_more_tokens_than_rows(convert, refuse, tmp_path):
    folder = write_hf(tmp_path / "m")
    text = letters([chr(0x100 + i) for i in range(VOCAB)])
    text["added_tokens"] = [{"id": VOCAB, "content": "<pad>", "special": True}]
    (folder / "tokenizer.json").write_text(json.dumps(text))
    assert len(from_folio(convert(folder)).tokens) == VOCAB and "<pad>" in convert.report
    (folder / "tokenizer.json").write_text(json.dumps(letters([chr(0x100 + i) for i in range(VOCAB + 1)])))
    assert f"{VOCAB + 1} tokens, the model's embedding only {VOCAB}" in refuse(folder)


def test_vocab_and_merges(convert, refuse, tmp_path):
    folder = write_hf(tmp_path / "m")
    words = ["a", "b", "Ġ", "ab", "Ġab", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    assert "merges.txt" in refuse(folder)
    (folder / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    v = from_folio(convert(folder))
    assert v.tokens[:6] == [b"a", b"b", b" ", b"ab", b" ab", b"<|endoftext|>"] and v.merges.tolist() == [[0, 1], [2, 3]]
    assert (v.split, v.eos, v.bos, v.types[5]) == ([splits.GPT2], [5], 5, CONTROL)
    assert merge_word(v, b" ab") == [4]
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "ab"}))
    v = from_folio(convert(folder))
    assert (v.split, v.normalize, v.eos) == ([splits.QWEN2], "nfc", [3, 5])
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "OddTokenizer"}))
    assert "OddTokenizer" in refuse(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "merges.txt").write_text("a z\n")
    assert "a z" in refuse(folder)
    bare = write_hf(tmp_path / "bare")
    (folder / "merges.txt").write_text("a b\n")
    assert from_folio(convert(bare, "--tokenizer", folder / "vocab.json")).tokens[3] == b"ab"


# ---- SentencePiece, llama2.c, GGUF -------------------------------------------------------------------------------------

def field(number, value):
    if isinstance(value, int):
        out = b""
        value &= (1 << 64) - 1
        while True:
            out += bytes([value & 127 | (128 if value > 127 else 0)])
            value >>= 7
            if not value:
                return bytes([number << 3] if number < 16 else [number << 3 & 127 | 128, number >> 4]) + out
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([number << 3 | 2]) + field(0, len(value))[1:] + value


def sentencepiece(pieces, model=2, normalizer=b"identity", extra=0):
    kind_of = lambda kind: field(3, kind) if kind != 1 else b""
    out = b"".join(field(1, field(1, text.encode()) + field(2, score) + kind_of(kind)) for text, score, kind in pieces)
    trainer = field(3, model) + field(40, 0) + field(41, 1) + field(42, 2) + field(43, -1)
    return out + field(2, trainer) + field(3, field(1, normalizer) + field(3, 1) + field(4, extra))


PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<0x0A>", 0.0, 6), ("▁a", -1.0, 1), ("ü▁", -2.5, 1), ("▁▁", 0.0, 4)]


def test_sentencepiece(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece(PIECES))
    v = vocabulary_spm.load(str(path))
    assert v.tokens == [b"<unk>", b"<s>", b"</s>", b"\n", b" a", "ü ".encode(), b"  "]
    assert v.types == [UNKNOWN, CONTROL, CONTROL, BYTE, NORMAL, NORMAL, ADDED] and v.scores[4:6] == [-1.0, -2.5]
    assert (v.kind, v.unk, v.bos, v.eos, v.pad) == ("spm", 0, 1, [2], -1)
    assert (v.add_bos, v.remove_extra_spaces, v.normalize) == (True, False, "none")
    path.write_bytes(sentencepiece(PIECES, model=1, normalizer=b"nmt_nfkc", extra=1))
    v = vocabulary_spm.load(str(path))
    assert (v.kind, v.normalize, v.remove_extra_spaces, v.add_eos) == ("unigram", "nfkc", True, True)
    for bad in (sentencepiece(PIECES)[:-3], b"\xff" * 40, sentencepiece(PIECES, model=3), sentencepiece(PIECES, normalizer=b"odd"),
                b"\x0a\xff\xff\xff\x7f"):
        path.write_bytes(bad)
        with pytest.raises(ConvertError):
            vocabulary_spm.load(str(path))


def test_llama2c_tokenizer(convert, refuse, tmp_path):
    write_llama2c(tmp_path / "m.bin", 0)
    texts = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % b for b in range(30)] + [b" a", b"b", b" ab", b"c", b"d", b"e", b"f"]
    assert len(texts) == VOCAB
    raw = struct.pack("<i", 3) + b"".join(struct.pack("<fi", -i / 2, len(t)) + t for i, t in enumerate(texts))
    path = tmp_path / "tok.bin"
    path.write_bytes(raw)
    v = from_folio(convert(tmp_path / "m.bin", "--tokenizer", path))
    assert v.tokens[:5] == [b"<unk>", b"<s>", b"</s>", b"\0", b"\1"] and v.tokens[35] == b" ab"
    assert v.types[:5] == [UNKNOWN, CONTROL, CONTROL, BYTE, BYTE] and v.scores[35] == -17.5
    assert (v.kind, v.bos, v.eos, v.add_bos, v.add_space_prefix) == ("spm", 1, [2], 1, 1)
    path.write_bytes(raw[:-1])
    assert "tok.bin" in refuse(tmp_path / "m.bin", "--tokenizer", path)
    path.write_bytes(raw + struct.pack("<fi", 0, 1) + b"x")
    assert "more than the model's 40" in refuse(tmp_path / "m.bin", "--tokenizer", path)
    assert "--tokenizer" in refuse(path)


def test_gguf_vocabulary(convert, refuse, tmp_path):
    def words(pre):
        def add(writer):
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(["a", "Ġ", "Ġa", "<s>", "<|eot_id|>"])
            writer.add_token_types([1, 1, 1, 3, 3])
            writer.add_token_merges(["Ġ a"])
            writer.add_bos_token_id(3)
            writer.add_eos_token_id(3)
        return add

    v = from_folio(convert(write_gguf(tmp_path / "m.gguf", vocabulary=words("llama-bpe"))))
    assert (v.split, v.ignore_merges, v.add_bos, v.eos) == ([splits.LLAMA3], 1, 1, [3, 4]) and v.tokens[2] == b" a"
    assert len(v.tokens) == VOCAB and v.merges.tolist() == [[1, 0]]
    back = convert(tmp_path / "out.folio", out="back.gguf")
    assert back.read_bytes() == (tmp_path / "m.gguf").read_bytes()  # five tokens, though the model has more rows
    assert "'odd' is unknown" in refuse(write_gguf(tmp_path / "n.gguf", vocabulary=words("odd")))


def test_real_vocabularies(convert, shared):
    folder = shared / "tokenizers"
    gpt2 = from_folio(convert(folder / "ggml-vocab-gpt-2.gguf"))
    assert len(gpt2.tokens) == 50257 and gpt2.split == [splits.GPT2] and gpt2.eos == [50256]
    pair, _ = vocabulary_hf.load_file(str(folder / "vocab.json"), map_file(str(folder / "vocab.json")))
    assert pair.tokens == gpt2.tokens and np.array_equal(pair.merges, gpt2.merges) and pair.eos == gpt2.eos
    spm = from_folio(convert(folder / "ggml-vocab-llama-spm.gguf"))
    model = vocabulary_spm.load(str(folder / "llama2-tokenizer.model"))
    assert spm.tokens == model.tokens and spm.types == model.types and spm.scores == model.scores
    assert (spm.bos, spm.eos, spm.add_bos, spm.add_space_prefix) == (model.bos, model.eos, model.add_bos, model.add_space_prefix)
