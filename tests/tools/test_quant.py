# SPDX-License-Identifier: MIT
"""Our number formats against those of the gguf package, bit for bit."""
import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType as Kind

from folio import ConvertError, quant


def hard_rows():
    """Random rows of many sizes, and rows that round, saturate, vanish or tie."""
    random = np.random.default_rng(3)
    rows = [random.standard_normal((64, 128)) * 10.0**e for e in (-6, -3, -1, 0, 2, 4)]
    rows.append(np.zeros((1, 128)))
    rows.append(np.tile(np.arange(-16, 16) / 2, (2, 4)))                      # halves: away from zero
    rows.append(np.tile(np.where(np.arange(32) % 2, 1.0, -1.0), (1, 4)))      # ties for the widest, both signs
    rows.append(np.tile(np.r_[-127.0, 126.5, 63.5, np.ones(29)], (1, 4)))
    near = np.float32([[k + 0.5, np.nextafter(np.float32(k + 0.5), np.float32(0))] for k in range(120)])  # with a scale of 1
    rows.append(np.concatenate([np.full((120, 1), 127), near, -near, np.zeros((120, 27))], axis=1).repeat(4, axis=0).reshape(120, 128))
    return np.concatenate(rows).astype(np.float32)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_quantises_as_gguf(kind):
    x = hard_rows()
    ours = quant.from_float(kind, x)
    assert np.array_equal(ours, quants.quantize(x, Kind[kind.upper()]))
    assert np.array_equal(quant.to_float(kind, ours), quants.dequantize(ours, Kind[kind.upper()]))


def test_halves_as_gguf():
    x = hard_rows()
    x = np.concatenate([x, np.float32([[65504, -65504, 2**-24, 2**-25, 1 + 2**-11, 1 + 3 * 2**-11] + [0] * 122])])
    assert np.array_equal(quant.from_float("bf16", x), quants.quantize(x, Kind.BF16))
    assert np.array_equal(quant.from_float("f16", x).view(np.float16), x.astype(np.float16))
    for kind in ("f16", "bf16"):
        raw = quant.from_float(kind, x)
        assert np.array_equal(quant.to_float(kind, raw), quants.dequantize(raw, Kind[kind.upper()]))


def test_bf16_of_infinity_and_nan():
    raw = quant.from_float("bf16", np.float32([[np.inf, -np.inf, np.nan]])).view(np.uint16)
    assert raw.tolist() == [[0x7F80, 0xFF80, 0x7FC0]]


def test_worked_by_hand():
    x = np.zeros((1, 32), np.float32)
    x[0, :3] = [127, -63.5, 1]
    raw = quant.from_float("q8_0", x)[0]
    assert raw[:2].view(np.float16)[0] == 1 and raw[2:5].view(np.int8).tolist() == [127, -64, 1]
    x[0, :3], x[0, 16] = [-8, 7, 0.4], 3
    raw = quant.from_float("q4_0", x)[0]
    assert raw[:2].view(np.float16)[0] == 1 and raw[2] == 0 | 11 << 4 and raw[3] == 15 | 8 << 4


@pytest.mark.parametrize("kind, value, word", [
    ("f16", 70000, "f16"), ("q8_0", np.nan, "NaN"), ("q4_0", np.inf, "infinity"), ("q8_0", 1e8, "scale")])
def test_refuses_what_does_not_fit(kind, value, word):
    x = np.ones((1, 32), np.float32)
    x[0, 5] = value
    with pytest.raises(ConvertError, match=word):
        quant.from_float(kind, x)


def test_a_scale_too_small_to_divide_by():
    x = np.zeros((1, 32), np.float32)
    x[0, 3] = 1e-39  # 1 / (x / 127) is beyond float32; gguf's own result is whatever the processor makes of infinity times 0
    for kind in ("q8_0", "q4_0"):
        assert not quant.to_float(kind, quant.from_float(kind, x)).any()


def test_widest():
    assert quant.widest(["q4_0", "q8_0"]) == "q8_0"
    assert quant.widest(["q8_0", "bf16"]) == "bf16"
    assert quant.widest(["f16", "bf16"]) == "f32"


def test_foreign_formats_are_read():
    x = hard_rows()[:64, :32]
    raw = quants.quantize(x, Kind.Q5_1)
    assert quant.bytes_of("Q5_1", 32) == raw.shape[1]
    assert np.array_equal(quant.to_float("Q5_1", raw), quants.dequantize(raw, Kind.Q5_1))
