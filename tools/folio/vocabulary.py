# SPDX-License-Identifier: MIT
"""A tokenizer in the one form that src/text/tokenizer.h describes, whatever it came from.

Tokens are real bytes: GPT-2's alphabet of visible letters is undone, SentencePiece's U+2581 is a space, a byte token is its byte.
"""
import re
from dataclasses import dataclass, field

import numpy as np

from . import ConvertError

NORMAL, CONTROL, ADDED, BYTE, UNUSED, UNKNOWN = range(6)
SPACE = "\u2581"  # SentencePiece's letter for a space

# Tokens that end an answer, by their text, whatever the checkpoint calls them.
ENDS = {b"</s>", b"<|endoftext|>", b"<|end_of_text|>", b"<|eot_id|>", b"<|eom_id|>", b"<|im_end|>", b"<|end|>", b"<end_of_turn>",
        b"<|endofturn|>", b"<EOT>", b"<|return|>"}


def _alphabet():
    """GPT-2's letters: printable bytes stand for themselves, the others are moved to U+0100 and on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {b: chr(b) for b in printable}
    for b in range(256):
        if b not in letters:
            letters[b] = chr(0x100 + len(letters) - len(printable))
    return letters


LETTER = _alphabet()                                   # byte -> letter
BYTE_OF = {letter: b for b, letter in LETTER.items()}  # letter -> byte


def from_letters(text):
    """GPT-2's alphabet to bytes; text that is not written in it stays as it is."""
    try:
        return bytes(BYTE_OF[letter] for letter in text)
    except KeyError:
        return text.encode("utf-8", "surrogateescape")


def to_letters(data):
    return "".join(LETTER[b] for b in data)


def byte_token(text):
    """65 for "<0x41>", None for anything else."""
    match = re.fullmatch("<0x([0-9A-Fa-f]{2})>", text)
    return int(match[1], 16) if match else None


def piece_bytes(text, type):
    """A piece of SentencePiece as bytes."""
    if type == BYTE:
        value = byte_token(text)
        if value is None:
            raise ConvertError(f"token '{text}' is marked as a byte but is none")
        return bytes([value])
    data = text.encode("utf-8", "surrogateescape")
    return data if type in (CONTROL, UNKNOWN) else data.replace(SPACE.encode(), b" ")


@dataclass
class Vocabulary:
    kind: str                                     # "bpe", "spm", "unigram"
    tokens: list                                  # bytes of each
    types: list
    scores: list = None                           # spm, unigram
    merges: np.ndarray = None                     # int32 [M,2], bpe
    split: list = field(default_factory=list)     # PCRE2 patterns, bpe
    bos: int = -1
    unk: int = -1
    pad: int = -1
    eos: list = field(default_factory=list)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    ignore_merges: bool = False
    remove_extra_spaces: bool = False             # runs of spaces become one, none at the ends; spm, unigram
    normalize: str = "none"
    strip_left: list = field(default_factory=list)   # added tokens that swallow the white space before them
    strip_right: list = field(default_factory=list)  # and after them
    notes: list = field(default_factory=list)

    def add_ends(self):
        """Joins the tokens that are known to end an answer to eos."""
        known = [i for i, t in enumerate(self.types) if t in (CONTROL, ADDED) and self.tokens[i] in ENDS]
        self.eos = sorted({i for i in [*self.eos, *known] if 0 <= i < len(self.tokens)})

    def fit(self, vocab):
        """Makes it as long as the model's embedding, which is often padded. Returns what there is to say about it."""
        notes, have = list(self.notes), len(self.tokens)
        if have < vocab:
            self.tokens += [b""] * (vocab - have)
            self.types += [UNUSED] * (vocab - have)
            if self.scores is not None:
                self.scores += [0.0] * (vocab - have)
            notes.append(f"the tokenizer has {have} tokens, the model {vocab}: ids {have} to {vocab - 1} are unused")
        elif have > vocab:
            if any(t not in (CONTROL, ADDED, UNUSED) for t in self.types[vocab:]):
                raise ConvertError(f"the tokenizer has {have} tokens, the model's embedding only {vocab}")
            dropped = ", ".join(t.decode("utf-8", "replace") for t in self.tokens[vocab:vocab + 5])
            notes.append(f"{have - vocab} added tokens beyond the model's {vocab} were dropped: {dropped}")
            del self.tokens[vocab:], self.types[vocab:]
            if self.scores is not None:
                del self.scores[vocab:]
            self.eos = [i for i in self.eos if i < vocab]
            self.bos, self.unk, self.pad = (i if i < vocab else -1 for i in (self.bos, self.unk, self.pad))
            self.strip_left = [i for i in self.strip_left if i < vocab]
            self.strip_right = [i for i in self.strip_right if i < vocab]
        return notes

    def check(self):
        n = len(self.tokens)
        if not n or not any(self.tokens):
            raise ConvertError("the tokenizer has no tokens")
        if len(self.types) != n or (self.scores is not None and len(self.scores) != n):
            raise ConvertError(f"the tokenizer has {n} tokens, but {len(self.types)} types and {len(self.scores or [])} scores")
        if self.merges is not None and self.merges.size and not 0 <= self.merges.min() <= self.merges.max() < n:
            raise ConvertError(f"the tokenizer has merges of ids beyond its {n} tokens")
        return self

    def metadata(self):
        meta = {"kind": self.kind, "bos": self.bos, "unk": self.unk, "pad": self.pad, "eos": self.eos,
                "add_bos": self.add_bos, "add_eos": self.add_eos, "add_space_prefix": self.add_space_prefix,
                "ignore_merges": self.ignore_merges, "remove_extra_spaces": self.remove_extra_spaces, "normalize": self.normalize}
        for key in ("split", "strip_left", "strip_right"):
            if getattr(self, key):
                meta[key] = getattr(self, key)
        return {"tokenizer." + key: value for key, value in meta.items()}

    def tensors(self):
        """(name, format, array) of each tensor."""
        yield "bytes", "u8", np.frombuffer(b"".join(self.tokens), np.uint8)
        yield "ends", "i32", np.cumsum([len(t) for t in self.tokens], dtype=np.int32)
        yield "types", "u8", np.array(self.types, np.uint8)
        if self.kind == "bpe":
            if self.merges is not None and len(self.merges):
                yield "merges", "i32", np.asarray(self.merges, np.int32)
        else:
            yield "scores", "f32", np.array(self.scores, np.float32)


def merge_ids(pairs, ids):
    """Merges as texts -> int32 [M,2] of ids. Both sides and what they make must be tokens."""
    out = np.empty((len(pairs), 2), np.int32)
    for i, (left, right) in enumerate(pairs):
        if left not in ids or right not in ids or left + right not in ids:
            raise ConvertError(f"merge {i} of the tokenizer, '{left} {right}', names a token that is not in its vocabulary")
        out[i] = ids[left], ids[right]
    return out


def from_folio(folio):
    """The vocabulary of a format.Folio; None if it has none."""
    meta = folio.metadata
    if "tokenizer.kind" not in meta:
        return None
    data, start, tokens = folio.array("tokenizer.bytes").tobytes(), 0, []
    for end in folio.array("tokenizer.ends").tolist():
        tokens.append(data[start:end])
        start = end
    v = Vocabulary(meta["tokenizer.kind"], tokens, folio.array("tokenizer.types").tolist())
    if v.kind == "bpe":
        v.merges = folio.array("tokenizer.merges") if "tokenizer.merges" in folio.tensors else np.empty((0, 2), np.int32)
    else:
        v.scores = folio.array("tokenizer.scores").tolist()
    for key, value in meta.items():
        if key.startswith("tokenizer.") and key != "tokenizer.kind":
            setattr(v, key.removeprefix("tokenizer."), value)
    return v
