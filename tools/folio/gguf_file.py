# SPDX-License-Identifier: MIT
"""GGUF files, read through a map and written back. Our own, so that damaged files end in one clear sentence.

    "GGUF", u32 version (2, 3), u64 tensors, u64 keys | keys: text, u32 type, value | tensors: name, u32 rank, u64 dims
    innermost first, u32 type, u64 offset | zeros up to the alignment | data, each tensor aligned
Keys keep their types, so that what is written back is what was read.
"""
import math
import struct

import numpy as np

from . import ConvertError, quant
from .format import Beside, Cursor
from .stored import Stored, map_file

MAGIC = b"GGUF"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
TYPES = {0: "f32", 1: "f16", 2: "q4_0", 8: "q8_0", 30: "bf16"}  # ours; the rest go by ggml's names
NUMBER = {name: number for number, name in TYPES.items()}


class Gguf:
    def __init__(self, path):
        self.path = path
        self.keys = {}     # name -> (type, value); an array's type is (ARRAY, type of its elements)
        self.tensors = {}  # name -> Stored, in the file's order

    def get(self, key, default):
        """The value of a key, of the default's type (an integer passes for a real); the default if there is no such key."""
        return self.need(key, type(default)) if key in self.keys else default

    def need(self, key, kind):
        if key not in self.keys:
            raise ConvertError(f"'{self.path}' lacks the key '{key}'")
        value = self.keys[key][1]
        if not isinstance(value, (int, float) if kind is float else kind):
            raise ConvertError(f"'{self.path}': the key '{key}' is a {type(value).__name__}, expected {kind.__name__}")
        return value


def _text(cursor):
    # Real vocabularies hold token texts that are not UTF-8; they are kept, byte for byte.
    return cursor.take(cursor.number("Q")).decode("utf-8", "surrogateescape")


def _value(cursor, kind):
    if kind in SCALARS:
        return cursor.number(SCALARS[kind])
    if kind == STRING:
        return _text(cursor)
    raise ConvertError(f"'{cursor.path}' has a value of unknown type {kind} before byte {cursor.at}")


def _key(cursor):
    name, kind = _text(cursor), cursor.number("I")
    if kind != ARRAY:
        return name, kind, _value(cursor, kind)
    of, count = cursor.numbers("IQ")
    if of in SCALARS:
        code = SCALARS[of]
        raw = cursor.take(count * struct.calcsize("<" + code))
        return name, (ARRAY, of), np.frombuffer(raw, np.dtype(code).newbyteorder("<")).tolist()
    if count > len(cursor.data) - cursor.at:
        raise ConvertError(f"'{cursor.path}': key '{name}' claims {count} values")
    return name, (ARRAY, of), [_value(cursor, of) for _ in range(count)]


def _kind(path, name, number):
    if number in TYPES:
        return TYPES[number]
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import _type_traits  # which types the package can decode
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise ConvertError(f"'{path}': tensor '{name}' has the unknown type {number}") from None
    if kind not in _type_traits:
        raise ConvertError(f"'{path}': tensor '{name}' is {kind.name}, which cannot be read")
    return kind.name


def read(path):
    data = map_file(path)
    cursor = Cursor(path, data)
    if cursor.take(4) != MAGIC:
        raise ConvertError(f"'{path}' is not a GGUF file")
    version, tensors, keys = cursor.numbers("IQQ")
    if version not in (2, 3):
        why = ", written on a big-endian machine" if version & 0xFFFF == 0 else ""
        raise ConvertError(f"'{path}' is GGUF of version {version}{why}; 2 and 3 are known")
    file = Gguf(path)
    for _ in range(keys):
        name, kind, value = _key(cursor)
        file.keys[name] = (kind, value)
    infos = []
    for _ in range(tensors):
        name, rank = _text(cursor), cursor.number("I")
        if not 1 <= rank <= 4:
            raise ConvertError(f"'{path}': tensor '{name}' has rank {rank}")
        infos.append((name, cursor.numbers(f"{rank}Q")[::-1], cursor.number("I"), cursor.number("Q")))
    align = file.get("general.alignment", 32)
    if not isinstance(align, int) or align < 1 or align & (align - 1):
        raise ConvertError(f"'{path}' has the alignment {align}")
    start = -(-cursor.at // align) * align
    for name, shape, number, offset in infos:
        kind, n = _kind(path, name, number), math.prod(shape)
        if not n or shape[-1] % quant.block_of(kind)[0]:
            raise ConvertError(f"'{path}': tensor '{name}' of shape {list(shape)} cannot be {kind}")
        begin, size = start + offset, quant.bytes_of(kind, n)
        if begin + size > len(data):
            raise ConvertError(f"'{path}' is truncated: tensor '{name}' ends at byte {begin + size}, the file at {len(data)}")
        if name in file.tensors:
            raise ConvertError(f"'{path}' has two tensors '{name}'")
        file.tensors[name] = Stored(kind, shape, data[begin:begin + size], name)
    return file


def _sized(text):
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _pack(kind, value):
    if isinstance(kind, (tuple, list)):
        of = kind[1]
        items = [_sized(v) for v in value] if of == STRING else [struct.pack(f"<{len(value)}{SCALARS[of]}", *value)]
        return struct.pack("<IIQ", ARRAY, of, len(value)) + b"".join(items)
    return struct.pack("<I", kind) + (_sized(value) if kind == STRING else struct.pack("<" + SCALARS[kind], value))


def write(path, keys, tensors, wrote=lambda n: None, version=3):
    """keys: name -> (type, value). tensors: (name, format, shape, function that yields its data)."""
    align = keys.get("general.alignment", (4, 32))[1]
    head = [MAGIC, struct.pack("<IQQ", version, len(tensors), len(keys))]
    head += [_sized(name) + _pack(kind, value) for name, (kind, value) in keys.items()]
    offset = 0
    for name, kind, shape, _ in tensors:
        head.append(_sized(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], NUMBER[kind], offset))
        offset += -(-quant.bytes_of(kind, math.prod(shape)) // align) * align
    raw = b"".join(head)
    with Beside(path) as out:
        out.write(raw + bytes(-len(raw) % align if tensors else 0))
        for _, _, _, chunks in tensors:
            size = 0
            for chunk in chunks():
                block = np.ascontiguousarray(chunk).tobytes()
                out.write(block)
                size += len(block)
                wrote(len(block))
            out.write(bytes(-size % align))
