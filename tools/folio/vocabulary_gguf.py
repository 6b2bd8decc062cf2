# SPDX-License-Identifier: MIT
"""Vocabularies inside GGUF files: tokenizer.ggml.model "llama" (SentencePiece BPE), "t5" (unigram) and "gpt2" (byte-level BPE)."""
from . import ConvertError, splits
from .vocabulary import (ADDED, BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, Vocabulary, from_letters, merge_ids,
                         piece_bytes, to_letters)

KINDS = {"llama": "spm", "t5": "unigram", "gpt2": "bpe"}
TYPES = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: ADDED, 5: UNUSED, 6: BYTE}
NUMBERS = {ours: theirs for theirs, ours in TYPES.items()}
PREFIX = "tokenizer.ggml."


def _bytes(kind, text, type):
    if kind == "bpe" and type != BYTE:
        return from_letters(text) if type == NORMAL else text.encode("utf-8", "surrogateescape")
    return piece_bytes(text, type)


def token_texts(vocabulary):
    """The way back: tokenizer.ggml.tokens."""
    out = []
    for data, type in zip(vocabulary.tokens, vocabulary.types):
        if type == BYTE:
            out.append(f"<0x{data[0]:02X}>")
        elif vocabulary.kind == "bpe" and type == NORMAL:
            out.append(to_letters(data))
        else:
            text = data.decode("utf-8", "surrogateescape")
            spaced = vocabulary.kind != "bpe" and type not in (CONTROL, UNKNOWN)
            out.append(text.replace(" ", SPACE) if spaced else text)
    return out


def merge_texts(vocabulary):
    """The way back: tokenizer.ggml.merges."""
    texts = token_texts(vocabulary)
    return [f"{texts[left]} {texts[right]}" for left, right in vocabulary.merges.tolist()]


def _split_merge(text):
    """The first space after the first letter parts the two; a token may itself begin with one."""
    at = text.find(" ", 1)
    if at < 0:
        raise ConvertError(f"the tokenizer has the merge '{text}'")
    return text[:at], text[at + 1:]


def load(file):
    """The vocabulary of a gguf_file.Gguf; None if it has none."""
    try:
        return _load(file)
    except (TypeError, ValueError, AttributeError, IndexError) as error:  # a list of another type than it must have
        raise ConvertError(f"'{file.path}' has a damaged tokenizer: {error}") from None


def _load(file):
    model = file.get(PREFIX + "model", "none")
    if model == "none":
        return None
    if model not in KINDS:
        raise ConvertError(f"'{file.path}' has a tokenizer of kind '{model}'; known are {', '.join(sorted(KINDS))}")
    kind, texts = KINDS[model], file.need(PREFIX + "tokens", list)
    types = [TYPES.get(t, NORMAL) for t in file.get(PREFIX + "token_type", [1] * len(texts))]
    v = Vocabulary(kind, [], types)
    if len(types) != len(texts):
        raise ConvertError(f"'{file.path}' has {len(texts)} tokens but {len(types)} token types")
    v.tokens = [_bytes(kind, text, type) for text, type in zip(texts, types)]
    n = len(texts)

    def token(key, default=-1):
        value = file.get(PREFIX + key, default)
        return value if 0 <= value < n else -1

    if kind == "bpe":
        ids = {text: i for i, text in enumerate(texts)}
        v.merges = merge_ids([_split_merge(m) for m in file.need(PREFIX + "merges", list)], ids)
        pre = file.get(PREFIX + "pre", "default")
        v.split, v.ignore_merges, v.add_bos = splits.by_name(pre), pre in splits.IGNORE_MERGES, pre in splits.ADD_BOS
        v.bos, v.unk = token("bos_token_id", 11), token("unknown_token_id")
        eos = 11
    else:
        v.scores = [float(s) for s in file.need(PREFIX + "scores", list)]
        v.add_bos = v.add_space_prefix = kind == "spm"
        v.bos, v.unk = token("bos_token_id", 1 if kind == "spm" else -1), token("unknown_token_id", 0 if kind == "spm" else 2)
        v.add_eos, eos = kind == "unigram", 2 if kind == "spm" else 1
    v.pad = token("padding_token_id")
    v.eos = [token("eos_token_id", eos), token("eot_token_id"), token("eom_token_id")]
    v.add_ends()
    for name, key in (("add_bos", "add_bos_token"), ("add_eos", "add_eos_token"), ("add_space_prefix", "add_space_prefix"),
                      ("remove_extra_spaces", "remove_extra_whitespaces")):
        setattr(v, name, bool(file.get(PREFIX + key, int(getattr(v, name)))))
    if v.bos < 0:
        v.add_bos = False
    return v
