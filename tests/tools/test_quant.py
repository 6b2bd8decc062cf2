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


def test_all_numbers_of_e4m3():
    table = quant.E4M3
    assert [table[b] for b in (0x00, 0x01, 0x07, 0x08, 0x38, 0x39, 0x7E)] == [0, 2**-9, 7 * 2**-9, 2**-6, 1, 1.125, 448]
    assert np.isnan(table[[0x7F, 0xFF]]).all() and np.isnan(table).sum() == 2
    assert np.array_equal(table[128:255], -table[:127]) and np.signbit(table[128])
    assert np.all(np.diff(table[:127]) > 0)
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quant.to_e4m3(table), np.where(np.isnan(table), 0x7F, codes))


def test_rounds_to_e4m3_as_a_slow_search():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[~np.isnan(halves)].astype(np.float32)
    table = quant.E4M3[:127].astype(np.float64)
    middle = (table[1:] + table[:-1]) / 2
    around = np.concatenate([middle, np.nextafter(np.float32(middle), np.float32(0)), np.nextafter(np.float32(middle), np.float32(1e9))])
    x = np.concatenate([halves, around, -around, [464, 480, 3e38, np.inf, -np.inf, 1e-45]]).astype(np.float32)
    size = np.minimum(np.abs(x.astype(np.float64)), 448)
    above = np.minimum(np.searchsorted(table, size), 126)
    below = np.maximum(above - 1, 0)
    far = (size - table[below]) - (table[above] - size)
    nearest = np.where((far > 0) | ((far == 0) & (above % 2 == 0)), above, below)
    assert np.array_equal(quant.to_e4m3(x), nearest | np.where(np.signbit(x), 0x80, 0))


def test_e4m3_as_torch():
    torch = pytest.importorskip("torch", reason="e4m3 is not compared with torch's: there is no torch here")
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes.copy()).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(theirs, quant.E4M3, equal_nan=True)
    x = np.random.default_rng(5).integers(0, 2**32, 300_000, dtype=np.uint32).view(np.float32)
    x = np.clip(x[~np.isnan(x)], -448, 448)  # torch does not saturate
    assert np.array_equal(torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy(), quant.to_e4m3(x))


def test_f8_blocks():
    x = np.zeros((2, 128), np.float32)
    x[0, :4], x[1, 70], x[1, 127] = [-896, 17, 19, 2**-8], 448, -448 / 2**15  # a scale of 2, of 0, of 0, of 1
    raw = quant.from_float("f8_e4m3", x).reshape(4, 68)
    assert raw[:, :4].copy().view(np.float32).ravel().tolist() == [2, 0, 0, 1]
    assert raw[0, 4:9].tolist() == [0xFE, 0x50, 0x52, 0x01, 0] and raw[3, 4 + 6] == 0x7E and raw[3, 67] == 0x80 | 7
    back = quant.to_float("f8_e4m3", raw.reshape(2, 136))
    assert back[0, :4].tolist() == [-896, 16, 20, 2**-8] and not back[1, :64].any()
    x = hard_rows()
    back = quant.to_float("f8_e4m3", quant.from_float("f8_e4m3", x))
    most = np.abs(x.reshape(-1, 2, 64)).max(axis=2, keepdims=True).repeat(64, axis=2).reshape(x.shape)
    assert np.all(np.abs(back - x) <= np.maximum(np.abs(x) * 0.0626, most / 448 * 2**-10 * 1.01))


@pytest.mark.parametrize("kind, value, word", [
    ("f16", 70000, "f16"), ("q8_0", np.nan, "NaN"), ("q4_0", np.inf, "infinity"), ("q8_0", 1e8, "scale"), ("f8_e4m3", np.nan, "NaN"),
    ("f8_e4m3", -np.inf, "infinity")])
def test_refuses_what_does_not_fit(kind, value, word):
    x = np.ones((1, 64), np.float32)
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
