# SPDX-License-Identifier: MIT
"""llama2.c's tokenizer.bin: i32 longest token, then for every id f32 score, i32 length, bytes. No types, no count.

It is a SentencePiece BPE whose first ids are fixed: 0 unknown, 1 and 2 begin and end of text (written "\\n<s>\\n"), 3 to 258 bytes.
"""
import struct

from . import ConvertError
from .format import Cursor
from .stored import map_file
from .vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, Vocabulary, byte_token


def load(path, vocab=None):
    """vocab: how many tokens to read; None: all there are."""
    data = map_file(path)
    cursor = Cursor(path, data)
    longest = cursor.number("i")
    v = Vocabulary("spm", [], [], [], bos=1, unk=0, eos=[2], add_bos=True, add_space_prefix=True)
    while cursor.at < len(data) and (vocab is None or len(v.tokens) < vocab):
        score, length = cursor.numbers("fi")
        if not 0 <= length <= max(longest, 16):  # the longest does not count the line breaks around <s>
            raise ConvertError(f"'{path}' is not a llama2.c tokenizer: token {len(v.tokens)} claims {length} bytes")
        v.tokens.append(cursor.take(length))
        v.scores.append(score)
    if vocab is not None and len(v.tokens) < vocab:
        raise ConvertError(f"'{path}' has {len(v.tokens)} tokens, the model {vocab}")
    if cursor.at != len(data):
        raise ConvertError(f"'{path}' has more than the model's {vocab} tokens")
    v.types = [NORMAL] * len(v.tokens)
    for i, special in enumerate((b"<unk>", b"<s>", b"</s>")[:len(v.tokens)]):
        if v.tokens[i].strip() != special:
            raise ConvertError(f"'{path}' is not a llama2.c tokenizer: token {i} is {v.tokens[i]!r}, expected {special!r}")
        v.tokens[i], v.types[i] = special, UNKNOWN if i == 0 else CONTROL
    for i in range(3, min(259, len(v.tokens))):
        value = byte_token(v.tokens[i].decode("latin-1"))
        if value is not None:
            v.tokens[i], v.types[i] = bytes([value]), BYTE
    return v


def is_tokenizer(data):
    """Whether the bytes begin as this file does: a small number, a score, and "<unk>"."""
    return len(data) > 17 and bytes(data[8:17]) == struct.pack("<i", 5) + b"<unk>"
