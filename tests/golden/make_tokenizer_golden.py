#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Trains four tiny tokenizers and writes them to tests/golden/tokenizer with texts and the ids those texts have.

    python3 tests/golden/make_tokenizer_golden.py TEXT      (a public-domain text, for example tinyshakespeare.txt)

Run by hand; needs the packages `tokenizers` and `sentencepiece`. tests/golden_vocab.h describes the files.
"""
import io
import random
import re
import sys
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent / "tokenizer"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")

# Blocks that hold letters, marks, digits, symbols and spaces of every kind; every point in them is assigned.
BLOCKS = [(0x21, 0x7e), (0x21, 0x7e), (0x30, 0x39), (0xa1, 0xff), (0x100, 0x17f), (0x300, 0x36f), (0x391, 0x3a1), (0x3b1, 0x3c9),
          (0x410, 0x44f), (0x5d0, 0x5ea), (0x621, 0x63a), (0x660, 0x669), (0x904, 0x939), (0xe01, 0xe2e), (0x1100, 0x1112),
          (0x2010, 0x2027), (0x2030, 0x205e), (0x2150, 0x2189), (0x2190, 0x21ff), (0x3041, 0x3096), (0x4e00, 0x4fff),
          (0xac00, 0xac80), (0xfb00, 0xfb06), (0xff01, 0xff5e), (0x1d400, 0x1d454), (0x1f300, 0x1f5ff), (0x1f600, 0x1f64f)]
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\xa0", "\u3000", "\u2003", "\u180e", "\u200b", "\x85", "\u2028"]
ENDINGS = ["'s", "'S", "'ll", "'re", "'VE", "'d", "'t", "'T", "'m", "’s", "'", "''", "'\u017f", "..", "!?", " -- ", "\x00", "\x7f"]


def texts(source, count, seed, longest=12):
    """Random strings: words of the text, spaces, contractions and characters of the blocks, mixed in various measures."""
    rng = random.Random(seed)
    words = re.findall(r"[A-Za-z]+|[.,;:!?]", source)
    out = ["", " ", "  ", "a", " a", "a ", "\n", " \n ", "Hello, world!", "don't", "3.14159 and 2024", "aaaaaaaaaaaaaaaaaaaaaaa"]
    while len(out) < count:
        weights = [rng.random() ** 2 for _ in range(4)]
        parts = []
        for _ in range(rng.randint(1, longest)):
            kind = rng.choices(range(4), weights)[0]
            if kind == 0:
                parts.append(rng.choice(["", " "]) + rng.choice(words))
            elif kind == 1:
                parts.append(rng.choice(SPACES))
            elif kind == 2:
                parts.append(rng.choice(ENDINGS))
            else:
                low, high = rng.choice(BLOCKS)
                parts += [chr(rng.randint(low, high)) for _ in range(rng.randint(1, 3))]
        out.append("".join(parts))
    return out


def quote(data):
    """UTF-8 stays readable, everything else becomes \\xHH."""
    data = data.encode() if isinstance(data, str) else data
    try:
        chars = data.decode()
    except UnicodeDecodeError:
        return '"' + "".join(f"\\x{b:02x}" for b in data) + '"'
    out = ""
    for c in chars:
        if c in '\\"':
            out += "\\" + c
        elif c.isprintable() and not 0x300 <= ord(c) < 0x370:
            out += c
        else:
            out += "".join(f"\\x{b:02x}" for b in c.encode())
    return f'"{out}"'


def byte_alphabet():
    """The GPT-2 alphabet's character of each byte, turned round."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(rest)}}


def bpe_tokenizer(pattern, source, size):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([source], trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer


def write_bpe(name, tokenizer, pattern, cases, ignore_merges=False):
    import json
    model = json.loads(tokenizer.to_str())["model"]
    alphabet = byte_alphabet()
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    lines = ["kind bpe", "split " + quote(pattern), f"ignore_merges {int(ignore_merges)}"]
    lines += ["token 0 0 " + quote(bytes(alphabet[c] for c in token)) for token in vocab]
    lines += ["merge {} {}".format(*(model["vocab"][half] for half in merge)) for merge in model["merges"]]
    write(name, lines, [(text, tokenizer.encode(text, add_special_tokens=False).ids) for text in cases], tokenizers)


def spm_model(source, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(source.splitlines()), model_writer=model, minloglevel=2, normalization_rule_name="identity",
        num_threads=1, **options)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write_spm(name, kind, model, cases, **flags):
    lines = [f"kind {kind}", f"unk {model.unk_id()}", "add_space_prefix 1"] + [f"{key} {value}" for key, value in flags.items()]
    for i in range(model.get_piece_size()):
        piece = model.id_to_piece(i)
        if model.is_byte(i):
            lines += ["bytes"] if piece == "<0x00>" else []
            continue
        kind = 5 if model.is_unknown(i) else 1 if model.is_control(i) else 4 if model.is_unused(i) else 0
        # The score as the model holds it: a float32, which nine digits name exactly.
        lines.append(f"token {kind} {model.get_score(i):.9g} {quote(piece if kind in (1, 5) else piece.replace(chr(0x2581), ' '))}")
    write(name, lines, [(text, model.encode(text)) for text in cases], sentencepiece)


def write(name, lines, cases, package):
    head = f"# Written by make_tokenizer_golden.py with {package.__name__} {package.__version__}."
    lines = [head] + lines + [" ".join(["case", quote(text)] + [str(i) for i in ids]) for text, ids in cases]
    (HERE / name).write_text("\n".join(lines) + "\n")
    print(f"{name}: {len(cases)} cases, {(HERE / name).stat().st_size} bytes")


def main():
    source = Path(sys.argv[1]).read_text()[:300_000]
    HERE.mkdir(exist_ok=True)
    write_bpe("bpe_gpt2.txt", bpe_tokenizer(GPT2, source, 450), GPT2, texts(source, 70, 1))
    write_bpe("bpe_llama3.txt", bpe_tokenizer(LLAMA3, source, 350), LLAMA3, texts(source, 60, 2))
    exact = dict(remove_extra_whitespaces=False, hard_vocab_limit=False)
    write_spm("spm.txt", "spm", spm_model(source, model_type="bpe", vocab_size=460, byte_fallback=True, character_coverage=1.0, **exact),
              texts(source, 70, 3))
    write_spm("unigram.txt", "unigram", spm_model(source, model_type="unigram", vocab_size=300, **exact), texts(source, 64, 4))
    write_spm("unigram_clean.txt", "unigram", spm_model(source, model_type="unigram", vocab_size=420, byte_fallback=True),
              texts(source, 36, 5), clean_spaces=1)


if __name__ == "__main__":
    main()
