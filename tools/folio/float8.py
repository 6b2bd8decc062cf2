# SPDX-License-Identifier: MIT
"""Checkpoints whose matrices are float8_e4m3fn: bytes in one tensor, scales in another, weight = byte's number * scale.

    NAME_scale_inv    one scale to a block of weights, 128 x 128 unless config.json says otherwise (DeepSeek, Qwen3-FP8)
    NAME_scale        one to the tensor, to a row or to a block (compressed-tensors, fbgemm_fp8, AutoFP8)
    neither           the numbers are the weights
Bytes and scales go into the blocks of f8_e4m3 as they are; any other format is made from the floats that they stand for.
"""
import math

import numpy as np

from . import ConvertError, quant
from .stored import Stored

METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors")  # quant_method of config.json, for whose float8 tensors this holds
OF_ACTIVATIONS = r"\.(input|output|q|k|v)_scale(_ub)?$"  # left out: activations stay floats here


class Scaled(Stored):
    """A matrix of e4m3 with a scale for each block[0] rows and block[1] columns."""

    def __init__(self, stored, scales, block):
        whole = scales.shape[1] == 1 or block[1] % quant.F8_BLOCK == 0  # one scale to each block of ours
        super().__init__("f8_e4m3" if whole else "float8", stored.shape, stored.data, stored.name)
        self.scales, self.block = scales, block

    def _part(self, low, high, step):
        """Bytes [rows, n], and the scale of every step-th column [rows, ceil(n / step)]."""
        n = self.shape[-1]
        rows, columns = np.arange(low, high) // self.block[0], np.arange(0, n, step) // self.block[1]
        return np.asarray(self.data[low * n:high * n]).reshape(high - low, n), self.scales[rows][:, columns]

    def raw(self, low, high):
        q, d = self._part(low, high, quant.F8_BLOCK)
        blocks = (high - low, -1)
        return np.concatenate([d[..., None].view(np.uint8), q.reshape(*blocks, quant.F8_BLOCK)], axis=-1).reshape(blocks)

    def floats(self, low, high):
        q, d = self._part(low, high, 1)
        return quant.E4M3[q] * d


def join(path, tensors, block):
    """The tensors with every float8 one and its scales as one Scaled. block: rows and columns of a scale, by config.json."""
    out = dict(tensors)
    for name, stored in tensors.items():
        if stored.format != "e4m3":
            continue
        given = next((name + end for end in ("_scale_inv", "_scale") if name + end in tensors), None)
        scales = out.pop(given) if given else None
        out[name] = _scaled(path, name, stored, given, scales, block)
    return out


def _scaled(path, name, stored, given, scales, block):
    rows, columns = stored.rows, stored.shape[-1]
    if scales is None:
        return Scaled(stored, np.ones((1, 1), np.float32), (rows, columns))
    if scales.format == "e4m3":
        raise ConvertError(f"'{path}': the scales '{given}' are float8 themselves")
    numbers = scales.floats(0, scales.rows)
    if numbers.size == 1:
        return Scaled(stored, numbers.reshape(1, 1), (rows, columns))
    if scales.shape in ((rows,), (rows, 1)):
        return Scaled(stored, numbers.reshape(rows, 1), (1, columns))
    if scales.shape == (math.ceil(rows / block[0]), math.ceil(columns / block[1])):
        return Scaled(stored, numbers, block)
    shape = lambda s: "[" + ",".join(map(str, s)) + "]"
    raise ConvertError(f"'{path}': tensor '{name}' of float8 is {shape(stored.shape)} and its scales '{given}' are {shape(scales.shape)}, "
                       f"expected one, one to a row or one to {block[0]} x {block[1]} weights")
