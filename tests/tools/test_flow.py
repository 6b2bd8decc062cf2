# SPDX-License-Identifier: MIT
"""The prototype of the flow model of clips, and the flow model of digits: what the tensors become, and headers that lie."""
import numpy as np
import pytest
from conftest import GOLDEN
from safetensors import safe_open
from safetensors.numpy import save_file

TINY = GOLDEN / "video" / "tiny.safetensors"


def parts():
    with safe_open(TINY, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


def write(path, tensors, header):
    save_file(tensors, path, header)
    return path


def test_tensors_and_sizes(convert):
    folio, (tensors, _) = convert(TINY), parts()
    meta = folio.metadata
    assert meta["arch"] == "video_dit" and meta["video.grid"] == [5, 5, 6] and meta["video.levels"] == 9 and meta["video.rounds"] == 6
    assert meta["video.mixers"] == ["log_linear", "mesa"] * 2 and meta["video.reverse"] == [0, 0, 1, 1]
    assert (meta["video.frames"], meta["video.height"], meta["video.width"]) == (17, 80, 96)
    both = np.concatenate([tensors["dit.mx.0.qkv.weight"], tensors["dit.mx.0.g.weight"]])
    assert np.array_equal(folio.array("flow.layer.0.mix.in.weight"), both)
    space = tensors["dit.ff.2.dw.weight"]
    assert np.array_equal(folio.array("flow.layer.2.ffn.space.weight")[5], space[:, 0, 1, 2])
    assert np.array_equal(folio.array("flow.layer.2.ffn.time.weight")[2], tensors["dit.ff.2.tw.weight"][:, 0, 2])
    assert np.allclose(folio.array("flow.layer.1.mix.ridge"), np.log1p(np.exp(tensors["dit.mx.1.Lam"])) + 0.25, atol=1e-6)
    assert "no tokenizer" not in convert.report


def test_matrices_take_a_format(convert):
    folio = convert(TINY, "--type", "f16")
    assert folio.tensors["flow.layer.0.ffn.up.weight"].format == "f16"
    assert folio.tensors["flow.layer.0.ffn.space.weight"].format == folio.tensors["flow.video.position"].format == "f32"


@pytest.mark.parametrize("key, value, words", [
    ("grid", "5,5", "'grid' is [5, 5], expected three positive integers"),
    ("grid", "5,5,x", "'grid' is '5,5,x', expected three integers"),
    ("grid", "5,5,7", "'dit.vpos' is [150,16], expected [175,16]"),
    ("h", "3", "3 heads cannot share 16 channels"),
    ("d", "0", "'d' is 0, expected a positive integer"),
    ("order", "lla,rnn", "'order' is 'lla,rnn', expected lla, mesa"),
    ("vocab", "{}", "'vocab' is no list of words"),
    ("vocab", "[", "'vocab' is '[', expected a list of words"),
    ("cg", None, "'cg' is None, expected an integer")])
def test_headers_that_lie(refuse, tmp_path, key, value, words):
    tensors, header = parts()
    header = {k: v for k, v in (header | {key: value}).items() if v is not None}
    assert words in refuse(write(tmp_path / "lie.safetensors", tensors, header))


def test_missing_tensors_are_named(refuse, tmp_path):
    tensors, header = parts()
    del tensors["dit.mx.1.Lam"]
    assert "has no tensor 'dit.mx.1.Lam'" in refuse(write(tmp_path / "less.safetensors", tensors, header))
    tensors, _ = parts()
    more = tensors | {"dit.mx.9.odd": np.zeros(3, np.float32)}
    assert "extra tensor 'dit.mx.9.odd'" in refuse(write(tmp_path / "more.safetensors", more, header))


def test_digits(convert, shared):
    folder = shared / "mnist-latent-flow"
    if not folder.is_dir():
        pytest.skip("no model of digits among the shared models")
    folio = convert(folder / "MNIST-DiffusionViT.pth")
    meta = folio.metadata
    assert meta["arch"] == "image_flow" and (meta["image.height"], meta["image.patch"], meta["image.classes"]) == (28, 7, 10)
    assert folio.tensors["flow.out.weight"].shape == (49, 64) and len(set(folio.array("flow.out.bias"))) == 1


def test_autoencoder_of_digits(convert, shared):
    folder = shared / "mnist-latent-flow"
    if not folder.is_dir():
        pytest.skip("no model of digits among the shared models")
    folio = convert(folder / "MNIST-VarAutoEncoder.pth")
    meta = folio.metadata
    assert meta["arch"] == "image_vae" and [meta["vae." + key] for key in ("side", "layers", "heads", "attention")] == [6, 3, 3, 18]
    assert sum(folio.array(name).size for name in folio.tensors) == 82343
    assert folio.tensors["decoder.layer.2.ffn.space.weight"].shape == (9, 128)
