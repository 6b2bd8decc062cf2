# SPDX-License-Identifier: MIT
"""Autoencoders: what is told from shapes, how convolutions are laid out, where files may lie, and what is refused."""
import shutil
import sys

import numpy as np
import pytest
from builders import floats
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from folio import ConvertError, from_vae, torch_zip

VIDEO = GOLDEN / "video"
BASE = VIDEO / "taehv_mini" / "base.safetensors"


def halves(tensors, prefix=True):
    """The tensors of encoder and decoder apart, with or without their prefix."""
    return [{name if prefix else name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(half)} for half in from_vae.HALVES]


@pytest.mark.parametrize("name, kind, latent, patch, time, spatial", [
    ("taehv_mini/base", "taehv", 4, 1, [1, 2, 2], 8), ("taew2_2", "taehv", 6, 2, [1, 2, 2], 16), ("taeltx", "taehv", 8, 4, [2, 2, 2], 32),
    ("super", "taehv", 6, 2, [1, 2, 2], 16), ("taesd", "taesd", 4, 1, [], 8), ("taef2", "taesd", 4, 1, [], 8), ("deep", "taesd", 4, 1, [], 32)])
def test_told_from_shapes(convert, name, kind, latent, patch, time, spatial):
    meta = convert(VIDEO / f"{name}.safetensors").metadata
    said = [meta[key] for key in ("arch", "vae.latent", "vae.patch", "vae.time", "vae.spatial", "vae.pad")]
    assert said == [kind, latent, patch, time, spatial, "tail"] and "vae.trim" not in meta
    assert ("wide_memory" in meta["vae.decoder"]) == (name == "super") and ("block_norm" in meta["vae.decoder"]) == (name == "taef2")
    assert "tokenizer" not in convert.report


def test_taps_outermost(convert):
    """Every number keeps its value and gets the one place that models/vae_net.h describes."""
    w, out = load_file(BASE), convert(BASE)
    at = lambda name: floats(out, name)
    assert np.array_equal(at("decoder.1.weight"), w["decoder.1.weight"].transpose(2, 3, 1, 0).reshape(9, 4, 32))
    c = w["decoder.3.conv.0.weight"].shape[0]
    both = w["decoder.3.conv.0.weight"].transpose(2, 3, 1, 0).reshape(9, 2 * c, c)
    assert np.array_equal(at("decoder.3.conv.0.weight"), np.concatenate([both[:, c:], both[:, :c]]))   # the past's taps first
    assert np.array_equal(at("decoder.13.conv.weight")[1], w["decoder.13.conv.weight"][16:, :, 0, 0].T)  # the second frame's
    assert np.array_equal(at("encoder.2.conv.weight")[1], w["encoder.2.conv.weight"][:, 8:, 0, 0].T)
    assert np.array_equal(at("decoder.1.bias"), w["decoder.1.bias"]) and out.tensors["decoder.1.bias"].format == "f32"
    w, out = load_file(VIDEO / "super.safetensors"), convert(VIDEO / "super.safetensors")
    deep = w["decoder.1.conv.0.weight"]
    assert np.array_equal(floats(out, "decoder.1.conv.0.weight")[49 + 10], deep[:16, 0, 1, 3]) and deep.shape == (32, 1, 7, 7)
    assert np.array_equal(floats(out, "decoder.1.conv.0.weight")[10], deep[16:, 0, 1, 3])
    assert np.array_equal(floats(out, "decoder.1.conv.1.weight")[0], w["decoder.1.conv.1.weight"][:, 16:, 0, 0].T)


def test_formats(convert):
    assert convert(VIDEO / "taesd.safetensors").tensors["decoder.1.weight"].format == "f16"
    assert convert(VIDEO / "taesd.safetensors", "--type", "f32").tensors["decoder.1.weight"].format == "f32"
    assert convert(BASE, "--type", "bf16").tensors["decoder.3.conv.0.weight"].format == "bf16"


def same(a, b):
    return a.tensors.keys() == b.tensors.keys() and all(np.array_equal(a.raw(name), b.raw(name)) for name in a.tensors)


def test_two_files_a_folder_and_diffusers(convert, tmp_path):
    tensors, whole = load_file(VIDEO / "taef2.safetensors"), convert(VIDEO / "taef2.safetensors", out="whole.folio")
    for half, part in zip(from_vae.HALVES, halves(tensors, prefix=False)):
        save_file(part, tmp_path / f"{half}.safetensors")
    pair = [tmp_path / f"{half}.safetensors" for half in from_vae.HALVES]
    assert same(convert(*pair), whole) and same(convert(*reversed(pair)), whole)
    folder = tmp_path / "m"
    folder.mkdir()
    for path in pair:
        shutil.copy(path, folder)
    assert same(convert(folder), whole)
    alone = convert(pair[1])
    assert "there is no encoder" in convert.report and all(name.startswith("decoder.") for name in alone.tensors)
    layers = {}
    for name, t in tensors.items():
        half, at, rest = name.split(".", 2)
        layers[f"{half}.layers.{int(at) - (half == 'decoder')}.{rest}"] = t
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "config.json").write_text('{"_class_name": "AutoencoderTiny"}')
    save_file(layers, folder / "diffusion_pytorch_model.safetensors")
    assert same(convert(folder), whole)


def test_rules(convert, tmp_path):
    copy = tmp_path / "taecvx.safetensors"
    shutil.copy(BASE, copy)
    assert convert(copy).metadata["vae.trim"] == "odd" and "cogvideox" in convert.report
    assert "vae.trim" not in convert(copy, "--vae", "plain").metadata
    assert convert(BASE, "--vae", "front").metadata["vae.pad"] == "front"
    save_file(load_file(BASE), copy, {"pad": "front"})
    assert convert(copy).metadata["vae.pad"] == "front"


def test_missing_extra_misshapen(refuse, tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = load_file(BASE)
    name = "decoder.10.conv.2.weight"
    save_file({k: t for k, t in tensors.items() if k != name}, path)
    assert f"no tensor '{name}'" in refuse(path)
    save_file(tensors | {name: np.zeros((16, 15, 3, 3), np.float32)}, path)
    assert f"'{name}' is [16,15,3,3], expected [16,16,3,3]" in refuse(path)
    save_file(tensors | {"decoder.23.weight": np.zeros((3,), np.float32)}, path)
    assert "extra tensor 'decoder.23.weight'" in refuse(path)
    save_file({k: t for k, t in tensors.items() if k != "decoder.14.weight"}, path)
    assert "no tensor 'decoder.14.weight'" in refuse(path)
    save_file(tensors | {"decoder.22.weight": np.zeros((5, 8, 3, 3), np.float32)}, path)
    assert "5 channels of pixels, expected 3, 12, 48 or 192" in refuse(path)
    save_file(tensors | {"decoder.13.conv.weight": np.zeros((24, 16, 1, 1), np.float32)}, path)
    assert "expected 16 channels a frame" in refuse(path)
    save_file(tensors | {"decoder.1.weight": np.zeros((32, 36), np.float32)}, path)
    assert "expected 4 dimensions" in refuse(path)


def test_halves_of_two_models(refuse, tmp_path):
    encoder, _ = halves(load_file(VIDEO / "taew2_2.safetensors"))
    _, decoder = halves(load_file(BASE))
    save_file(encoder | decoder, tmp_path / "m.safetensors")
    assert "they are not of one autoencoder" in refuse(tmp_path / "m.safetensors")
    save_file(decoder, tmp_path / "d.safetensors")
    shutil.copy(tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    assert "expected an encoder and a decoder" in refuse(tmp_path / "d.safetensors", tmp_path / "e.safetensors")
    assert "neither .safetensors nor .pth" in refuse(tmp_path / "d.safetensors", tmp_path / "e.gguf")


def test_kinds_that_are_refused(refuse, tmp_path):
    path = tmp_path / "m.safetensors"
    save_file(load_file(BASE) | {"decoder.3.conv.6.weight": np.zeros((32, 32, 3, 3), np.float32)}, path)
    assert "taeltx2_3_wide" in refuse(path)
    tensors = load_file(VIDEO / "taew2_2.safetensors")
    tensors |= {"decoder.1.weight": np.zeros((16, 24, 3, 3), np.float32), "encoder.17.weight": np.zeros((24, 8, 3, 3), np.float32),
                "encoder.17.bias": np.zeros(24, np.float32)}
    save_file(tensors, path)
    assert "taeh3" in refuse(path)
    assert "takes no --tokenizer" in refuse(BASE, "--tokenizer", path)
    save_file({"odd": np.zeros(3, np.float32)}, path)
    assert "give the folder" in refuse(path)
    assert "holds no autoencoder" in refuse(path, "--vae", "plain")
    path.write_bytes(BASE.read_bytes()[:5000])
    assert "truncated" in refuse(path)


def test_real_taef2_without_torch(convert, shared, monkeypatch):
    """The .pth of the shared folder, read by our own reader, are the .safetensors beside it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    pair = [shared / "taef2" / f"taef2_{half}" for half in from_vae.HALVES]
    ours = convert(*(f"{path}.pth" for path in pair))
    assert same(ours, convert(*(f"{path}.safetensors" for path in pair), out="other.folio"))
    with safe_open(f"{pair[0]}.safetensors", "np") as file:
        names = set(file.keys())
    assert {name.removeprefix("encoder.") for name in ours.tensors if name.startswith("encoder")} == names


def test_pickles_that_call_something(tmp_path):
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self):
            return (print, ("called",))

    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({"a": Evil()}))
    with pytest.raises(ConvertError, match="calls builtins.print"):
        torch_zip.read(path)
    raw = (tmp_path / "m.pth").read_bytes()
    path.write_bytes(raw[:60])
    assert torch_zip.read(path) is None


def volumes(path, middle, between, **more):
    """The seeds' decoder, 32 channels to `middle` to 3, as a sequence whose second convolution stands at 1 + between."""
    rng = np.random.default_rng(1)
    last = 1 + between
    shapes = {"0.weight": (middle, 32, 3, 3, 3), "0.bias": (middle,), f"{last}.weight": (3, middle, 3, 3, 3), f"{last}.bias": (3,)} | more
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("middle, count", [(8, 7571), (32, 30275)])
def test_volumes(convert, tmp_path, middle, count):
    path = tmp_path / "m.safetensors"
    w = volumes(path, middle, 0)
    out = convert(path)
    assert sum(floats(out, name).size for name in out.tensors) == count
    assert [out.metadata[key] for key in ("arch", "vae.latent", "vae.spatial", "vae.decoder")] == ["thin", 32, 1, ["volume"] * 2]
    assert np.array_equal(floats(out, "decoder.0.weight")[1 * 9 + 0 * 3 + 2], w["0.weight"][:, :, 1, 0, 2].T)
    w = {f"decoder.{name}": t for name, t in volumes(path, middle, 1).items()}
    save_file(w, path)
    out = convert(path)
    assert out.metadata["vae.decoder"] == ["volume", "relu", "volume"] and out.tensors["decoder.2.weight"].shape == (27, middle, 3)


def test_volumes_that_do_not_fit(refuse, tmp_path):
    path = tmp_path / "m.safetensors"
    volumes(path, 8, 2)
    assert "between its convolutions of three dimensions are 1 and 2, expected a relu alone" in refuse(path)
    volumes(path, 8, 0, **{"1.weight": (4, 8, 3, 3, 3), "1.bias": (4,)})
    assert "its last convolution has 4 channels, expected the 3 of a picture" in refuse(path)
    volumes(path, 8, 0, **{"1.weight": (3, 9, 3, 3, 3)})
    assert "'decoder.1.weight' is [3,9,3,3,3], expected [3,8,3,3,3]" in refuse(path)
    volumes(path, 8, 0, **{"0.weight": (8, 32, 1, 3, 3)})
    assert "'decoder.0.weight' is [8,32,1,3,3], expected [8,32,3,3,3]" in refuse(path)
    volumes(path, 8, 0, **{"encoder.0.weight": (32, 3, 3, 3, 3)})
    assert refuse(path)
