# SPDX-License-Identifier: MIT
"""gpt-oss: experts whose inputs come first and whose gate and up take turns, mxfp4, sinks; and what is refused."""
import json
import shutil

import numpy as np
import pytest
from conftest import GOLDEN
from safetensors.numpy import load_file, save_file

from folio import ConvertError, from_gpt_oss, quant
from folio.stored import Stored

E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


def stored(x, kind="f32", name="x"):
    return Stored(kind, x.shape, np.ascontiguousarray(x).view(np.uint8).reshape(-1), name)


def test_stacks_of_numbers():
    x = np.random.default_rng(1).standard_normal((3, 4, 10), np.float32)   # [experts, in, out]
    gate, up = (from_gpt_oss.Columns(stored(x), "", first, 2) for first in (0, 1))
    assert gate.shape == (3, 5, 4)
    assert np.array_equal(gate.floats(0, 15).reshape(3, 5, 4), x.transpose(0, 2, 1)[:, 0::2])
    assert np.array_equal(up.floats(0, 15).reshape(3, 5, 4), x.transpose(0, 2, 1)[:, 1::2])
    for low, high in ((3, 4), (4, 6), (2, 13), (5, 10)):   # chunks within an expert and across experts
        assert np.array_equal(up.floats(low, high), up.floats(0, 15)[low:high])
    down = from_gpt_oss.Columns(stored(x), "", 0, 1)
    assert np.array_equal(down.floats(0, 30).reshape(3, 10, 4), x.transpose(0, 2, 1))


def test_mxfp4_by_hand():
    random = np.random.default_rng(2)
    blocks = random.integers(0, 256, (2, 6, 2, 16), np.uint8)
    scales = random.integers(120, 135, (2, 6, 2), np.uint8)
    want = np.zeros((2, 6, 64), np.float32)
    for e, r, b, i in np.ndindex(*blocks.shape):
        size, byte = 2.0 ** (int(scales[e, r, b]) - 127), int(blocks[e, r, b, i])
        want[e, r, 32 * b + 2 * i] = E2M1[byte % 16] * size
        want[e, r, 32 * b + 2 * i + 1] = E2M1[byte // 16] * size
    for first, step in ((0, 1), (0, 2), (1, 2)):
        got = from_gpt_oss.Mxfp4(stored(blocks, "u8"), stored(scales, "u8"), "", first, step)
        rows = 2 * got.shape[1]
        assert np.array_equal(got.floats(0, rows).reshape(got.shape), want[:, first::step])
        assert np.array_equal(got.floats(1, rows - 1), got.floats(0, rows)[1:-1])
        assert np.array_equal(quant.to_float("bf16", quant.from_float("bf16", got.floats(0, rows))), got.floats(0, rows))
    with pytest.raises(ConvertError, match="is not a number"):
        from_gpt_oss.Mxfp4(stored(blocks, "u8"), stored(np.full_like(scales, 255), "u8"), "w", 0, 1).floats(0, 1)


def test_the_golden_models_profiles(convert):
    meta = convert(GOLDEN / "hf" / "gpt_oss").metadata
    assert meta["layer.mixer"] == [1, 0, 1] and meta["mixer.1.window"] == 24 and "mixer.0.window" not in meta
    assert meta["mixer.0.rope_truncate"] == 0 and meta["mixer.0.rope_scaling"] == "yarn"
    assert meta["ffn.0.act"] == "swiglu_oai" and meta["ffn.0.normalise"] == 1


def read_raw(path):
    """name -> [dtype, shape, bytes]: NumPy knows no bf16."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    return {name: [i["dtype"], i["shape"], data[begin + i["data_offsets"][0]:begin + i["data_offsets"][1]]]
            for name, i in header.items() if name != "__metadata__"}


def write_raw(path, tensors):
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def cut(name, *shape):
    """An edit: the tensor's first numbers, in that shape."""
    def edit(tensors):
        dtype, _, data = tensors[name]
        tensors[name] = [dtype, list(shape), data[:int(np.prod(shape)) * (1 if dtype == "U8" else 2)]]
    return edit


def without(name):
    return lambda tensors: tensors.pop(name)


AT = "model.layers.0.mlp.experts."


@pytest.mark.parametrize("name, edit, config, words", [
    ("gpt_oss", None, {"swiglu_limit": 5.0}, ["swiglu_limit = 5.0 is not supported"]),
    ("gpt_oss", None, {"layer_types": ["full_attention"]}, ["layer_types has 1 entries"]),
    ("gpt_oss", without("model.layers.1.self_attn.sinks"), {}, ["no tensor 'model.layers.1.self_attn.sinks'"]),
    ("gpt_oss", without(AT + "gate_up_proj"), {}, [f"no tensor '{AT}gate_up_proj[gate]'"]),
    ("gpt_oss", cut(AT + "down_proj", 32, 32), {}, [f"'{AT}down_proj'", "[experts, in, out]"]),
    ("gpt_oss", cut(AT + "gate_up_proj", 6, 32, 63), {}, ["63 outputs"]),
    ("gpt_oss_mxfp4", without(AT + "down_proj_scales"), {}, [f"'{AT}down_proj_scales' missing"]),
    ("gpt_oss_mxfp4", cut(AT + "down_proj_blocks", 6, 32, 1, 15), {}, ["[6,32,1,15]"]),
])
def test_refused(refuse, tmp_path, name, edit, config, words):
    to = tmp_path / name
    shutil.copytree(GOLDEN / "hf" / name, to)
    (to / "config.json").write_text(json.dumps(json.loads((to / "config.json").read_text()) | config))
    tensors = read_raw(to / "model.safetensors")
    if edit:
        edit(tensors)
    write_raw(to / "model.safetensors", tensors)
    said = refuse(to)
    assert all(word in said for word in words), said


def test_bytes_are_no_weights_elsewhere(refuse, tmp_path):
    to = tmp_path / "llama"
    shutil.copytree(GOLDEN / "hf" / "llama", to)
    tensors = load_file(to / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    save_file(tensors | {name: np.zeros(tensors[name].shape, np.uint8)}, to / "model.safetensors")
    assert f"tensor '{name}' is of bytes (U8), expected numbers" in refuse(to)
