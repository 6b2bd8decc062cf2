# SPDX-License-Identifier: MIT
"""SentencePiece's tokenizer.model: a protobuf of which we need a few fields, so we read those ourselves.

    ModelProto   1: repeated piece {1 text, 2 score, 3 type} · 2: trainer {3 model, 40-43 ids of unk, bos, eos, pad}
                 3: normalizer {1 name, 3 add_dummy_prefix, 4 remove_extra_whitespaces}
"""
import struct

from . import ConvertError
from .stored import map_file
from .vocabulary import ADDED, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, Vocabulary, piece_bytes

TYPES = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: ADDED, 5: UNUSED, 6: BYTE}
MODELS = {1: "unigram", 2: "spm"}
NORMALIZERS = {"": "none", "identity": "none", "nfkc": "nfkc", "nmt_nfkc": "nfkc"}


def _varint(data, at):
    value, shift = 0, 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def _fields(data):
    """(number, value) of each field: an integer, four or eight raw bytes, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
        else:
            if wire == 2:
                size, at = _varint(data, at)
            elif wire in (1, 5):
                size = 8 if wire == 1 else 4
            else:
                raise ValueError
            if size > len(data) - at:
                raise ValueError
            value, at = data[at:at + size], at + size
        yield key >> 3, value


def _signed(value):
    return value - (1 << 64) if value >> 63 else value


def load(path):
    data = bytes(map_file(path))
    try:
        return _load(data)
    except (ValueError, KeyError, AttributeError, TypeError, struct.error):
        raise ConvertError(f"'{path}' is not a SentencePiece model, or damaged") from None
    except ConvertError as error:
        raise ConvertError(f"'{path}' {error}") from None


def _load(data):
    pieces, trainer, normalizer = [], {}, {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode("utf-8"), struct.unpack("<f", piece.get(2, bytes(4)))[0], piece.get(3, 1)))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    kind = MODELS.get(trainer.get(3, 1))
    if not pieces or not kind:
        raise ConvertError(f"has {len(pieces)} pieces of model type {trainer.get(3, 1)}; 1 (unigram) and 2 (BPE) are known")
    name = normalizer.get(1, b"").decode("utf-8", "replace")
    if name not in NORMALIZERS:
        raise ConvertError(f"normalizes by '{name}'; known are {', '.join(sorted(n for n in NORMALIZERS if n))}")
    v = Vocabulary(kind, [], [TYPES.get(t, NORMAL) for _, _, t in pieces], [score for _, score, _ in pieces])
    v.tokens = [piece_bytes(text, type) for (text, _, _), type in zip(pieces, v.types)]
    ids = [_signed(trainer.get(field, default & (1 << 64) - 1)) for field, default in ((40, 0), (41, 1), (42, 2), (43, -1))]
    v.unk, v.bos, eos, v.pad = (i if 0 <= i < len(pieces) else -1 for i in ids)
    v.eos = [eos]
    v.add_bos, v.add_eos = kind == "spm" and v.bos >= 0, kind == "unigram" and eos >= 0
    v.add_space_prefix = bool(normalizer.get(3, 1))
    v.remove_extra_spaces = bool(normalizer.get(4, 1))
    v.normalize = NORMALIZERS[name]
    if name == "nmt_nfkc":
        v.notes.append("the tokenizer's normalizer nmt_nfkc is taken as NFKC; control characters may differ")
    v.add_ends()
    return v
