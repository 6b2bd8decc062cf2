# SPDX-License-Identifier: MIT
"""A tensor as a source stores it: format, shape, and rows of bytes that still lie in the file's map.

Nothing is read until rows are asked for, and only those rows are: that is what bounds the memory of a conversion.
"""
import math
import os

import numpy as np

from . import ConvertError
from . import quant


class Stored:
    def __init__(self, kind, shape, data, name=""):
        """data: uint8, the whole tensor, usually a view of a map. Formats beyond quant.FORMATS go by ggml's names.
        name: its name in a source that can be written back."""
        self.format, self.shape, self.data, self.name = kind, tuple(int(n) for n in shape), data, name

    @property
    def rows(self):
        return math.prod(self.shape[:-1])

    def raw(self, low, high):
        """uint8 [high - low, bytes of a row]."""
        step = quant.bytes_of(self.format, self.shape[-1])
        return self.data[low * step:high * step].reshape(high - low, step)

    def floats(self, low, high):
        """float32 [high - low, n]."""
        return quant.to_float(self.format, self.raw(low, high))


class Transposed(Stored):
    """The transpose of a matrix of plain numbers. A row is a column of the file: read in strides, never all at once."""

    def __init__(self, of):
        super().__init__(of.format, of.shape[::-1], None, of.name)
        size = quant.FORMATS[of.format][1]
        self.columns = of.data.view(f"V{size}").reshape(of.shape).T

    def raw(self, low, high):
        return np.ascontiguousarray(self.columns[low:high]).view(np.uint8).reshape(high - low, -1)


class Groups(Stored):
    """llama2.c's int8: one float32 scale to every `group` elements of the flattened tensor; groups may straddle rows."""

    def __init__(self, shape, q, scales, group):
        super().__init__("int8", shape, q)
        self.scales, self.group = scales, group

    def raw(self, low, high):
        raise AssertionError("int8 groups are always converted")

    def floats(self, low, high):
        n = self.shape[-1]
        first, last = low * n // self.group, -(-high * n // self.group)
        s = np.repeat(np.frombuffer(self.scales[first * 4:last * 4], np.float32), self.group)
        skip = low * n - first * self.group
        q = self.data[low * n:high * n].view(np.int8).astype(np.float32)
        return (q * s[skip:skip + len(q)]).reshape(high - low, n)


def map_file(path):
    """The bytes of a file, mapped."""
    try:
        size = os.path.getsize(path)
        if not size:
            raise ConvertError(f"'{path}' is empty")
        return np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise ConvertError(f"cannot read '{path}': {error.strerror}") from None
