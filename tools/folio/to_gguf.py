# SPDX-License-Identifier: MIT
"""The way back: a .folio that was made from a GGUF file becomes that file again.

Its key "source.gguf" (see from_gguf.py) holds the keys, and for each tensor the rows of ours that it became. Formats stay as
they are in the .folio, except norms and biases, which we widened to f32: those return to their own.
"""
import json
import math

from . import ConvertError, format, gguf_file, quant
from .from_gguf import restored
from .progress import Bar, table
from .vocabulary import from_folio

CHUNK = 1 << 24  # bytes copied at once


def convert(path, out, quiet=False):
    """Writes the GGUF; returns the lines of the report."""
    folio = format.read(path)
    if "source.gguf" not in folio.metadata:
        raise ConvertError(f"'{path}' was not made from a GGUF file; only such files can go back")
    if bad := folio.verify():
        raise ConvertError(f"'{path}': the data of '{bad[0]}' do not match their hash")
    try:
        source = json.loads(folio.metadata["source.gguf"])
        keys = _keys(folio, source)
        tensors = [_tensor(folio, *tensor) for tensor in source["tensors"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"'{path}': its key 'source.gguf' is damaged ({error})") from None
    total = sum(quant.bytes_of(kind, math.prod(shape)) for _, kind, shape, _ in tensors)
    bar = Bar(total, "writing back", quiet)
    try:
        gguf_file.write(out, keys, tensors, bar.add)
    finally:
        bar.end()
    entries = [format.Entry(name, kind, tuple(shape), 0, quant.bytes_of(kind, math.prod(shape))) for name, kind, shape, _ in tensors]
    return (table(entries, {}) if entries else []) + [f"{out}: {len(tensors)} tensors, {len(keys)} keys"]


def _keys(folio, source):
    vocabulary = from_folio(folio)
    if vocabulary:
        vocabulary.tokens, vocabulary.types = vocabulary.tokens[:source["tokens"]], vocabulary.types[:source["tokens"]]
        if vocabulary.scores is not None:
            vocabulary.scores = vocabulary.scores[:source["tokens"]]
    ours = restored(vocabulary, folio.metadata.get("chat.template", ""))
    return {name: (kind, ours[name] if value is None else value) for name, kind, value in source["keys"]}


def _tensor(folio, name, kind, shape, spans):
    """(name, format, shape, function that yields its data)."""
    if not spans:
        raise ConvertError(f"'{folio.path}' does not hold the rows of '{name}'")
    have = {folio.tensors[ours].format for ours, _, _ in spans}
    if len(have) != 1:
        raise ConvertError(f"'{folio.path}': the rows of '{name}' have several formats: {', '.join(sorted(have))}")
    have = have.pop()
    if have not in gguf_file.NUMBER:
        raise ConvertError(f"'{folio.path}': '{name}' is {have}, a format that GGUF does not have; "
                           "convert the source with another --type first")
    narrow = have == "f32" and kind in ("f16", "bf16") and len(shape) == 1  # a norm or a bias; exact, for it came from there

    def chunks():
        for ours, low, high in spans:
            raw = folio.raw(ours)
            if len(shape) == 1:
                raw = raw.reshape(folio.tensors[ours].shape[0], -1)
            step = max(1, CHUNK // raw.shape[1])
            for at in range(low, high, step):
                rows = raw[at:min(at + step, high)]
                yield quant.from_float(kind, quant.to_float("f32", rows)) if narrow else rows

    return name, kind if narrow else have, tuple(shape), chunks
