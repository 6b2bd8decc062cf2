# SPDX-License-Identifier: MIT
"""From a source's tensors to the .folio: checks names and shapes, chooses formats, converts row by row, writes.

A source hands over a Model. Everything wrong is found before the first byte is written: a missing, an extra, a misshapen
tensor is named. Bytes whose format stays are copied, never decoded, so q8_0 and q4_0 arrive bit for bit.
"""
import math
import re
from dataclasses import dataclass, field, replace

import numpy as np

from . import ConvertError, quant
from .decoder import wanted
from .format import Entry, write
from .progress import Bar, table
from .stored import Stored, Transposed

CHUNK = 1 << 18  # elements converted at once: 1 MB of float32, which stays in the cache


@dataclass
class Model:
    path: str
    decoder: object = None        # None: a vocabulary alone
    table: dict = field(default_factory=dict)
    conv1d: bool = False
    tensors: dict = field(default_factory=dict)  # name -> Stored
    ignored: str = r"$^"          # names that may be left over (a regular expression)
    vocabulary: object = None
    chat: str = ""
    metadata: dict = field(default_factory=dict)  # further keys: a value, or a function of the pieces that gives it
    carried: list = field(default_factory=list)   # names of tensors kept as they are, under "gguf."
    notes: list = field(default_factory=list)


@dataclass
class Piece:
    """A tensor of the .folio on its way: where its rows come from."""
    entry: Entry
    parts: list  # (Stored, low, high)


def _shape(shape):
    return "[" + ",".join(map(str, shape)) + "]"


def _by_elements(stored):
    """A vector with one element to a row, so that vectors stack as matrices do."""
    if len(stored.shape) != 1:
        return stored
    shape = (stored.shape[0], 1)
    if quant.block_of(stored.format)[0] == 1:
        return Stored(stored.format, shape, stored.data, stored.name)
    return Stored("f32", shape, stored.floats(0, 1).view(np.uint8).reshape(-1), stored.name)


def _resolve(model, part, used):
    stored = model.tensors.get(part.name)
    if stored is None:
        raise ConvertError(f"'{model.path}' has no tensor '{part.name}', expected of shape {_shape(part.shape)}")
    used.add(part.name)
    if stored.format == "u8":
        raise ConvertError(f"'{model.path}': tensor '{part.name}' is of bytes (U8), expected numbers")
    if stored.shape != part.shape:
        raise ConvertError(f"'{model.path}': tensor '{part.name}' is {_shape(stored.shape)}, expected {_shape(part.shape)}")
    stored = _by_elements(stored)
    if part.transpose:
        stored = Transposed(stored)
    low, high = part.rows or (0, stored.rows)
    return stored, low, high


def _format(model, want, parts, kind, marks):
    """The format a tensor gets; what is not as one would expect goes into marks."""
    have = [stored.format for stored, _, _ in parts]
    if not want.matrix:
        return "f32"
    foreign = sorted({f for f in have if f not in quant.FLOATS})
    if foreign:
        marks[want.name] = f"from {', '.join(foreign)}"
    chosen = kind or quant.widest([{"int8": "f32", "mxfp4": "bf16"}.get(f, "f16") if f in foreign else f for f in have])
    if not kind and len(set(have)) > 1:
        marks[want.name] = f"from {', '.join(sorted(set(have)))}, the widest kept"
    block = quant.block_of(chosen)[0]
    if want.shape[-1] % block:
        marks[want.name] = f"rows of {want.shape[-1]} are not whole blocks of {block}: f16, not {chosen}"
        chosen = "f16"
    return chosen


def _made(model, want, used):
    """A small tensor that is computed from others, as a part."""
    arrays = []
    for part in want.parts:
        stored, low, high = _resolve(model, part, used)
        shape = (high - low, *part.shape[1:]) if part.rows else part.shape
        arrays.append(np.asarray(stored.floats(low, high), np.float32).reshape(shape))
    array = np.ascontiguousarray(want.make(*arrays), np.float32)
    if array.shape != want.shape or not np.isfinite(array).all():
        raise ConvertError(f"'{model.path}': '{want.name}' comes out as {_shape(array.shape)} or not finite, expected {_shape(want.shape)}")
    stored = _by_elements(Stored("f32", want.shape, array.view(np.uint8).reshape(-1), want.name))
    return [(stored, 0, stored.rows)]


def _pieces(model, kind, marks):
    pieces, used = [], set()
    for want in model.decoder.wanted() if hasattr(model.decoder, "wanted") else wanted(model.decoder, model.table, model.conv1d):
        if want.make:
            pieces.append(Piece(Entry(want.name, "f32", want.shape), _made(model, want, used)))
            continue
        parts = [_resolve(model, part, used) for part in want.parts]
        if want.lay:
            stored = want.lay(model.tensors[want.parts[0].name])
            want, parts = replace(want, shape=stored.shape), [(stored, 0, stored.rows)]
        pieces.append(Piece(Entry(want.name, _format(model, want, parts, kind, marks), want.shape), parts))
    for name in model.carried:
        used.add(name)
        shape, stored = model.tensors[name].shape, _by_elements(model.tensors[name])
        pieces.append(Piece(Entry("gguf." + name, stored.format, shape), [(stored, 0, stored.rows)]))
    left = [name for name in model.tensors if name not in used and not re.search(model.ignored, name)]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ConvertError(f"'{model.path}' has an extra tensor '{left[0]}' of shape {_shape(model.tensors[left[0]].shape)}{more},"
                           " which this architecture does not use")
    return pieces


def _chunks(piece):
    """The data of a piece as uint8 arrays of at most CHUNK elements or one row."""
    for stored, low, high in piece.parts:
        step = max(1, CHUNK // stored.shape[-1])
        for at in range(low, high, step):
            end = min(at + step, high)
            if stored.format == piece.entry.format:
                yield stored.raw(at, end)
                continue
            try:
                yield quant.from_float(piece.entry.format, stored.floats(at, end))
            except ConvertError as error:
                raise ConvertError(f"tensor '{piece.entry.name}' {error}") from None


def vocabulary_pieces(vocabulary):
    pieces = []
    for name, kind, array in vocabulary.tensors():
        flat = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        stored = Stored(kind, array.shape, flat)
        pieces.append(Piece(Entry("tokenizer." + name, kind, array.shape), [(stored, 0, stored.rows)]))
    return pieces


def convert(model, out, kind=None, quiet=False):
    """Writes the .folio; returns the lines of the report."""
    marks, pieces, metadata = {}, [], {}
    if model.decoder:
        metadata = model.decoder.check().metadata()
        pieces = _pieces(model, kind, marks)
        if not model.vocabulary and getattr(model.decoder, "text", True):
            model.notes.append("no tokenizer: give one with --tokenizer, or run on token ids alone")
    elif model.vocabulary:
        metadata = {"arch": "vocab"}
    else:
        raise ConvertError(f"'{model.path}' holds neither weights nor a tokenizer")
    if model.vocabulary:
        vocabulary = model.vocabulary
        if model.decoder:
            model.notes += vocabulary.fit(model.decoder.vocab)
        metadata |= vocabulary.check().metadata()
        pieces = vocabulary_pieces(vocabulary) + pieces
    if model.chat:
        metadata["chat.template"] = model.chat
    metadata |= {key: value(pieces) if callable(value) else value for key, value in model.metadata.items()}
    entries = [piece.entry for piece in pieces]
    by_name = {piece.entry.name: piece for piece in pieces}
    total = sum(quant.bytes_of(e.format, math.prod(e.shape)) for e in entries)
    bar = Bar(total, "converting", quiet)
    try:
        size = write(out, {k: v for k, v in metadata.items() if v != ""}, entries, lambda e: _chunks(by_name[e.name]), bar.add)
    finally:
        bar.end()
    return table(entries, marks) + [f"note: {note}" for note in model.notes] + [f"{out}: {len(entries)} tensors, {size:,} bytes"]
