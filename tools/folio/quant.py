# SPDX-License-Identifier: MIT
"""Number formats as bytes: rows of float32 to rows of blocks and back, as src/graph/dtype.cpp and ggml do it, bit for bit.

Everything here works on rows: a float32 array [rows, n], or a uint8 array [rows, bytes of n elements].
    q8_0   34 bytes: f16 scale d, 32 x i8 q          x = d*q
    q4_0   18 bytes: f16 scale d, 16 bytes           x = d*(nibble - 8); byte j holds element j (low) and j + 16 (high)
    f8_e4m3   68 bytes: f32 scale d, 64 x e4m3 q     x = d*q
Other formats of ggml (Q6_K ...) are only read, by the gguf package.
"""
import numpy as np

from . import ConvertError

BLOCK = 32
F8_BLOCK = 64
FORMATS = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "i32": (1, 4), "u8": (1, 1), "q8_0": (BLOCK, 34), "q4_0": (BLOCK, 18),
           "f8_e4m3": (F8_BLOCK, 68)}
FLOATS = ("f32", "f16", "bf16", "q8_0", "q4_0", "f8_e4m3")  # what a weight may be
QUANTISED = ("q8_0", "q4_0")
WIDTH = {"q4_0": 0, "f8_e4m3": 1, "q8_0": 2, "f16": 3, "bf16": 3, "f32": 4}
UNDER_HALF = np.nextafter(np.float32(0.5), np.float32(0))  # 0.5 itself would lift 0.49999997 to 1
TINY = np.finfo(np.float32).tiny  # below it 1/d overflows; such a scale is zero in f16 anyway


def block_of(kind):
    """(elements, bytes) of a block, of ours or of ggml's other formats."""
    if kind in FORMATS:
        return FORMATS[kind]
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]]


def bytes_of(kind, n):
    block, size = block_of(kind)
    return n // block * size


def widest(kinds):
    """The format that holds all of them; f16 and bf16 hold each other only in f32."""
    kinds = set(kinds)
    if {"f16", "bf16"} <= kinds:
        return "f32"
    return max(kinds, key=lambda kind: WIDTH[kind])


def to_float(kind, raw):
    """uint8 [rows, bytes] -> float32 [rows, n]."""
    raw = np.ascontiguousarray(raw)
    if kind == "f32":
        return raw.view(np.float32)
    if kind == "f16":
        return raw.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind == "f8_e4m3":
        blocks = raw.reshape(len(raw), -1, 4 + F8_BLOCK)
        d = blocks[..., :4].copy().view(np.float32)  # [rows, blocks, 1]
        with np.errstate(over="ignore", invalid="ignore"):
            return (d * E4M3[blocks[..., 4:]]).reshape(len(raw), -1)
    if kind in QUANTISED:
        blocks = raw.reshape(len(raw), -1, FORMATS[kind][1])
        d = blocks[..., :2].copy().view(np.float16).astype(np.float32)  # [rows, blocks, 1]
        q = blocks[..., 2:]
        if kind == "q8_0":
            q = q.view(np.int8).astype(np.float32)
        else:
            q = np.concatenate([q & 15, q >> 4], axis=-1).astype(np.float32) - np.float32(8)
        return (d * q).reshape(len(raw), -1)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize
    return dequantize(raw, GGMLQuantizationType[kind])


def from_float(kind, x):
    """float32 [rows, n] -> uint8 [rows, bytes]; n is a multiple of the block."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if kind == "f32":
        return x.view(np.uint8)
    if kind == "f16":
        with np.errstate(over="ignore"):
            half = x.astype(np.float16)
        if np.any(np.isinf(half) & np.isfinite(x)):
            raise ConvertError(f"holds {float(np.abs(x[np.isfinite(x)]).max()):g}, which f16 cannot; use --type f32 or bf16")
        return half.view(np.uint8)
    if kind == "bf16":
        return _bf16(x).view(np.uint8)
    if not np.all(np.isfinite(x)):
        raise ConvertError(f"holds NaN or infinity, which {kind} cannot")
    if kind == "f8_e4m3":
        return _f8_e4m3(x.reshape(len(x), -1, F8_BLOCK)).reshape(len(x), -1)
    blocks = x.reshape(len(x), -1, BLOCK)
    out = _q8_0(blocks) if kind == "q8_0" else _q4_0(blocks)
    return out.reshape(len(x), -1)


def _bf16(x):
    u = x.view(np.uint32)
    nan = (u & 0x7FFFFFFF) > 0x7F800000
    rounded = (u + np.uint32(0x7FFF) + (u >> 16 & 1)) >> 16  # nearest, ties to even
    return np.where(nan, u >> 16 | 64, rounded).astype(np.uint16)


def _e4m3_values():
    """float32 [256]: sign, 4 bits of exponent with bias 7, 3 of fraction; all ones are NaN."""
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    size = np.where(exponent > 0, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(1.0 * fraction, -9))
    size[code & 127 == 127] = np.nan
    return np.copysign(size, np.where(code < 128, 1, -1)).astype(np.float32)


E4M3 = _e4m3_values()


def to_e4m3(x):
    """float32 -> uint8: nearest, ties to even; what is too large becomes 448. As f32_to_e4m3 of dtype.cpp."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    size = u & np.uint32(0x7FFFFFFF)
    normal = (size + np.uint32(0x7FFFF) + (size >> 20 & np.uint32(1)) - np.uint32(0x3C000000)) >> 20
    with np.errstate(invalid="ignore"):
        tiny = (size.view(np.float32) + np.float32(16384)).view(np.uint32) - np.uint32(0x46800000)  # below 2^-6, in steps of 2^-9
    code = np.where(size < 0x3C800000, tiny, np.minimum(normal, 0x7E))
    return np.where(size > 0x7F800000, 0x7F, code | u >> 24 & 0x80).astype(np.uint8)


def _f8_e4m3(blocks):
    d = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(448)
    q = to_e4m3(blocks / np.where(d > 0, d, np.float32(1)))
    return np.concatenate([d.view(np.uint8), q], axis=-1)


def _scale(d, kind):
    """The f16 bytes of the scales, and their inverses as float32."""
    with np.errstate(divide="ignore", over="ignore"):
        half = d.astype(np.float16)
        inverse = np.where(np.abs(d) < TINY, np.float32(0), np.float32(1) / d)
    if np.any(np.isinf(half)):
        raise ConvertError(f"has a scale of {float(np.abs(d).max()):g}, which {kind} cannot hold; use --type f32 or bf16")
    return half.view(np.uint8), inverse


def _q8_0(blocks):
    d = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    half, inverse = _scale(d, "q8_0")
    v = blocks * inverse
    v += np.copysign(UNDER_HALF, v)  # and cut: halves go away from zero, as in std::round
    return np.concatenate([half, v.astype(np.int8).view(np.uint8)], axis=-1)


def _q4_0(blocks):
    at = np.abs(blocks).argmax(axis=-1, keepdims=True)
    d = np.take_along_axis(blocks, at, axis=-1) / np.float32(-8)  # the widest becomes -8 exactly
    half, inverse = _scale(d, "q4_0")
    q = np.minimum((blocks * inverse + np.float32(8.5)).astype(np.uint8), 15)
    return np.concatenate([half, q[..., :16] | q[..., 16:] << 4], axis=-1)
