# SPDX-License-Identifier: MIT
"""The .folio file: its writer, and the reader that the way back and the tests use.

The one description of the format is the comment of src/files/weights.h; this is its other half.
The writer knows all names, formats and shapes before the first byte of data, so it streams: data first, tensor by tensor,
then head and index, whose room was kept. It writes NAME.part and renames it at the end: whatever stops it leaves nothing.
"""
import math
import os
import struct
from dataclasses import dataclass, field

import numpy as np
import xxhash

from . import ConvertError
from .quant import FORMATS

MAGIC = b"FOLIO\r\n\x1a"
VERSION = 1
HEAD = 64
ALIGN = 256


@dataclass
class Entry:
    name: str
    format: str
    shape: tuple
    offset: int = 0
    bytes: int = 0
    hash: int = 0


@dataclass
class Folio:
    """A file that was read: metadata, and tensors by name."""
    path: str
    metadata: dict
    tensors: dict = field(default_factory=dict)
    map: np.ndarray = None

    def raw(self, name):
        """uint8 [rows, bytes of a row], on the map."""
        e = self.tensors[name]
        return self.map[e.offset:e.offset + e.bytes].reshape(max(1, math.prod(e.shape[:-1])), -1)

    def array(self, name):
        """A tensor of plain numbers as NumPy sees it (f32, f16, i32, u8)."""
        e = self.tensors[name]
        plain = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "u8": np.uint8}
        return self.map[e.offset:e.offset + e.bytes].view(plain[e.format]).reshape(e.shape)

    def verify(self):
        """Names of the tensors whose data do not match their hash."""
        return [e.name for e in self.tensors.values() if xxhash.xxh3_64_intdigest(self.raw(e.name)) != e.hash]


# ---- writing ----------------------------------------------------------------------------------------------------------

def _text(value):
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError:
        raise ConvertError(f"{value!r} is not valid Unicode") from None


def _value(key, value):
    """Type and value of a metadatum. An empty list is one of integers."""
    many = lambda kind, items: struct.pack("<BI", kind, len(items)) + b"".join(items)
    sized = lambda text: struct.pack("<I", len(_text(text))) + _text(text)
    if isinstance(value, list):
        if all(isinstance(v, int) for v in value):
            return many(3, [struct.pack("<q", v) for v in value])
        if all(isinstance(v, (int, float)) for v in value):
            return many(4, [struct.pack("<d", v) for v in value])
        if all(isinstance(v, str) for v in value):
            return many(5, [sized(v) for v in value])
    elif isinstance(value, int):  # bool too
        return struct.pack("<Bq", 0, value)
    elif isinstance(value, float):
        return struct.pack("<Bd", 1, value)
    elif isinstance(value, str):
        return b"\x02" + sized(value)
    raise TypeError(f"metadata '{key}': {type(value).__name__}")


def pack_index(metadata, entries):
    out = [struct.pack("<I", len(metadata))]
    for key, value in metadata.items():
        name = _text(key)
        out += [struct.pack("<H", len(name)), name, _value(key, value)]
    out.append(struct.pack("<I", len(entries)))
    for e in entries:
        name, kind, rank = _text(e.name), e.format.encode(), len(e.shape)
        out += [struct.pack("<H", len(name)), name, struct.pack("<B", len(kind)), kind, struct.pack("<B", rank)]
        out.append(struct.pack(f"<{rank}QQQQ", *e.shape, e.offset, e.bytes, e.hash))
    return b"".join(out)


def lay_out(metadata, entries):
    """Sets offset and bytes of every entry; returns the bytes of the whole file."""
    end = HEAD + len(pack_index(metadata, entries))
    for e in entries:
        block, size = FORMATS[e.format]
        if not 1 <= len(e.shape) <= 4 or min(e.shape) < 1 or e.shape[-1] % block:
            raise ConvertError(f"tensor '{e.name}' of shape {list(e.shape)} cannot be stored as {e.format}")
        e.offset = -(-end // ALIGN) * ALIGN
        e.bytes = math.prod(e.shape) // block * size
        end = e.offset + e.bytes
    return end


class Beside:
    """A file that is written as NAME.part and takes its name only when all of it is there."""

    def __init__(self, path):
        self.path, self.part = os.fspath(path), os.fspath(path) + ".part"

    def _refuse(self, error):
        raise ConvertError(f"cannot write '{self.path}': {error.strerror}") from None

    def __enter__(self):
        try:
            self.file = open(self.part, "w+b")
        except OSError as error:
            self._refuse(error)
        return self

    def write(self, data, at=None):
        try:
            if at is not None:
                self.file.seek(at)
            self.file.write(data)
        except OSError as error:
            self._refuse(error)

    def __exit__(self, kind, error, trace):
        try:
            try:
                self.file.close()
            finally:
                if kind is None:
                    os.replace(self.part, self.path)
        except OSError as late:
            if kind is None:
                self._refuse(late)
        finally:
            if os.path.exists(self.part):
                os.unlink(self.part)


def write(path, metadata, entries, chunks, wrote=lambda n: None):
    """Writes the file. chunks(entry) yields its data as uint8 arrays or bytes; wrote(n) hears of every n bytes."""
    total = lay_out(metadata, entries)
    with Beside(path) as out:
        for e in entries:
            hasher, done = xxhash.xxh3_64(), 0
            for chunk in chunks(e):
                data = memoryview(np.ascontiguousarray(chunk)).cast("B") if isinstance(chunk, np.ndarray) else chunk
                out.write(data, e.offset + done)  # the gap before a tensor reads as zeros
                hasher.update(data)
                done += len(data)
                wrote(len(data))
            if done != e.bytes:
                raise ConvertError(f"tensor '{e.name}' came to {done} bytes, expected {e.bytes}")
            e.hash = hasher.intdigest()
        index = pack_index(metadata, entries)
        head = struct.pack("<IIQQQ", VERSION, 0, len(index), total, xxhash.xxh3_64_intdigest(index))
        out.write(MAGIC + head + bytes(24) + index, 0)
    return total


# ---- reading ----------------------------------------------------------------------------------------------------------

class Cursor:
    """Reads packed numbers from bytes and never past their end."""

    def __init__(self, path, data, at=0):
        self.path, self.data, self.at = path, memoryview(data), at

    def take(self, n):
        if n > len(self.data) - self.at:
            raise ConvertError(f"'{self.path}' is truncated or damaged at byte {self.at}")
        self.at += n
        return bytes(self.data[self.at - n:self.at])

    def numbers(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))

    def number(self, code):
        return self.numbers(code)[0]

    def text(self, code):
        raw = self.take(self.number(code))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ConvertError(f"'{self.path}' has text that is not UTF-8 before byte {self.at}") from None


def _read_value(cursor):
    kind = cursor.number("B")
    one = {0: lambda: cursor.number("q"), 1: lambda: cursor.number("d"), 2: lambda: cursor.text("I")}
    if kind < 3:
        return one[kind]()
    if kind > 5:
        raise ConvertError(f"'{cursor.path}' has metadata of unknown type {kind}")
    return [one[kind - 3]() for _ in range(cursor.number("I"))]


def _read_entry(cursor):
    name, kind, rank = cursor.text("H"), cursor.text("B"), cursor.number("B")
    if kind not in FORMATS or not 1 <= rank <= 4:
        raise ConvertError(f"'{cursor.path}': tensor '{name}' has format '{kind}' and rank {rank}")
    numbers = cursor.numbers(f"{rank}QQQQ")
    e = Entry(name, kind, numbers[:rank], *numbers[rank:])
    block, size = FORMATS[kind]
    fits = e.shape[-1] % block == 0 and e.bytes == math.prod(e.shape) // block * size and e.bytes > 0
    if not fits or e.offset % ALIGN or e.offset + e.bytes > cursor.file_bytes:
        raise ConvertError(f"'{cursor.path}': tensor '{name}' does not fit its shape {list(e.shape)} or the file")
    return e


def read(path):
    path = os.fspath(path)
    try:
        size = os.path.getsize(path)
        data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    except OSError as error:
        raise ConvertError(f"cannot read '{path}': {error.strerror}") from None
    head = Cursor(path, data)
    if head.take(8) != MAGIC:
        raise ConvertError(f"'{path}' is not a .folio file")
    version, _, index_bytes, file_bytes, digest = head.numbers("IIQQQ")
    if version != VERSION:
        raise ConvertError(f"'{path}' is of version {version}; this converter reads {VERSION}")
    if file_bytes != size or index_bytes > size - HEAD:
        raise ConvertError(f"'{path}' has {size} bytes where its head says {file_bytes}")
    index = bytes(data[HEAD:HEAD + index_bytes])
    if xxhash.xxh3_64_intdigest(index) != digest:
        raise ConvertError(f"'{path}': the index does not match its hash")
    cursor = Cursor(path, index)
    cursor.file_bytes = size
    metadata = {}
    for _ in range(cursor.number("I")):
        key = cursor.text("H")
        metadata[key] = _read_value(cursor)
    tensors = [_read_entry(cursor) for _ in range(cursor.number("I"))]
    return Folio(path, metadata, {e.name: e for e in tensors}, data)
