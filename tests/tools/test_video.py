# SPDX-License-Identifier: MIT
"""The video model's ruler, held against clips whose truth is known, and the parts of its trainer that can be checked without training."""
import struct
import zlib

import numpy as np
import pytest

from video import detector, score, shapes

SCENES = [shapes.any_scene(np.random.default_rng(i)) for i in range(120)]


@pytest.fixture(scope="module")
def seen():
    return [detector.detect(shapes.draw(np.random.default_rng(1000 + i), s).render()) for i, s in enumerate(SCENES)]


def test_detector_sees_what_was_drawn(seen):
    shares = detector.mean_marks([detector.marks(d, s) for d, s in zip(seen, SCENES)])
    assert min(shares.values()) >= 0.99, shares


def test_others_prompts_are_chance(seen):
    shares = detector.mean_marks([detector.marks(d, s) for i, d in enumerate(seen) for j, s in enumerate(SCENES) if i != j])
    for name, count in shapes.ATTRIBUTES.items():
        assert abs(shares[name] - 1 / count) < 0.03, (name, shares)
    assert shares["all"] < 0.02


def test_detector_sees_nothing_in_nothing():
    grey = np.full((shapes.FRAMES, shapes.SIDE, shapes.SIDE, 3), 0.4, np.float32)
    assert detector.detect(grey) is None
    assert detector.detect(grey + np.random.default_rng(0).normal(0, 0.01, grey.shape)) is None


def test_detector_bears_blur_and_noise():
    rng, marks = np.random.default_rng(5), []
    for scene in SCENES[:40]:
        clip = shapes.draw(rng, scene).render()
        for axis in (1, 2):
            clip = (np.roll(clip, 1, axis) + 2 * clip + np.roll(clip, -1, axis)) / 4
        marks.append(detector.marks(detector.detect(np.clip(clip + rng.normal(0, 0.03, clip.shape), 0, 1)), scene))
    assert detector.mean_marks(marks)["all"] >= 0.9


def test_a_window_is_a_part_of_the_whole():
    clip = shapes.draw(np.random.default_rng(3), shapes.Scene(1, 2, 3, 5, 1))
    part = clip.render(slice(4, 9), slice(8, 40), slice(20, 52))
    assert np.array_equal(part, clip.render()[4:9, 8:40, 20:52])


def test_captions():
    scene = shapes.Scene(1, 0, 0, 4, 1)
    assert shapes.caption(scene) == "a large red circle bouncing on a gray background"
    assert shapes.caption(scene, size=False, background=False) == "a red circle bouncing"
    words = shapes.encode("a red circle bouncing")
    assert len(words) == shapes.TEXT and [shapes.WORDS[i] for i in words[:4]] == ["a", "red", "circle", "bouncing"] and not any(words[4:])
    with pytest.raises(ValueError, match="purple.*red"):
        shapes.encode("a purple circle")
    assert all(len(shapes.caption(s).split()) <= shapes.TEXT for s in SCENES)


def test_held_out_triples_are_never_trained_on():
    assert len(shapes.HELD_OUT) == 25
    rng = np.random.default_rng(0)
    assert not any(shapes.training_scene(rng).held_out for _ in range(2000))
    assert any(shapes.any_scene(rng).held_out for _ in range(200))
    prompts = score.scenes(200)
    assert sum(s.held_out for s in prompts) == 40 and len(set(prompts)) == 200
    for names, at in ((shapes.COLOURS, 0), (shapes.SHAPES, 1), (shapes.MOTIONS, 2)):  # every word is learned from other triples
        assert all(sum(t[at] == i for t in shapes.HELD_OUT) < 16 for i in range(len(names)))


def png(image, kinds):
    """A PNG whose line y has filter kinds[y]."""
    height, width, size = image.shape
    wide = np.zeros((height + 1, width + 1, size), np.int32)
    wide[1:, 1:] = image
    a, b, c = wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1]
    pa, pb, pc = abs(b - c), abs(a - c), abs(a + b - 2 * c)
    guess = [0 * a, a, b, (a + b) // 2, np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))]
    lines = b"".join(bytes([k]) + (image[y] - guess[k][y] & 255).astype(np.uint8).tobytes() for y, k in enumerate(kinds))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if size == 3 else 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [3, 4])
def test_png_with_every_filter(tmp_path, size):
    image = np.random.default_rng(0).integers(0, 256, (10, 7, size)).astype(np.int32)
    (tmp_path / "0000.png").write_bytes(png(image, [0, 1, 2, 3, 4] * 2))
    assert np.array_equal(score.read_png(tmp_path / "0000.png"), image[..., :3])


def test_y4m(tmp_path):
    y, u, v = (np.full((4, 6), n, np.uint8).tobytes() for n in (81, 90, 240))  # red of BT.601
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W6 H4 F8:1 C444\n" + (b"FRAME\n" + y + u + v) * 2)
    (tmp_path / "b.y4m").write_bytes(b"YUV4MPEG2 W6 H4 F8:1 C420jpeg\n" + (b"FRAME\n" + y + u[:6] + v[:6]) * 2)
    for name in ("a.y4m", "b.y4m"):
        frames = score.read_y4m(tmp_path / name)
        assert frames.shape == (2, 4, 6, 3) and np.abs(frames - [254, 0, 0]).max() < 2


def test_report_counts(seen):
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in score.report(SCENES, seen)}
    held = sum(s.held_out for s in SCENES)
    assert float(rows["all prompts (120)"][0].strip(" %")) >= 99 and f"held-out triples ({held})" in rows


# ---- with PyTorch

def by_definition(q, k, v, log_decay, beta, order, per_level=None, ridge=None):
    """Both mixers, one token after the other as their headers define them; order[i]: the token scanned as the i-th. Double."""
    o = np.zeros_like(v)
    for i, t in enumerate(order):
        weights = [np.exp(sum(log_decay[u] for u in order[j + 1:i + 1])) * beta[s] for j, s in enumerate(order[:i + 1])]
        if ridge is None:
            for j, s in enumerate(order[:i + 1]):
                level = 0 if j == i else 1 + int(np.floor(np.log2(i ^ j)))
                o[t] += per_level[t][level] * weights[j] * (q[t] @ k[s]) * v[s]
        else:
            h = np.diag(ridge) + sum(w * np.outer(k[s], k[s]) for w, s in zip(weights, order))
            x = np.linalg.solve(h, q[t])
            o[t] = sum(w * (x @ k[s]) * v[s] for w, s in zip(weights, order))
    return o


@pytest.mark.parametrize("kind", ["log_linear", "mesa"])
@pytest.mark.parametrize("reverse", [0, 1])
def test_training_form_of_mixers(kind, reverse):
    torch = pytest.importorskip("torch")
    from video import nets
    torch.manual_seed(0)
    text, video, dim, heads = 3, 10, 16, 2
    before, level = nets.scan_order(text, video, reverse)
    mixer = nets.Mixer(dim, heads, kind, level.shape[1], rounds=12).double()
    with torch.no_grad():
        for p in mixer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
        x = torch.randn(1, text + video, dim, dtype=torch.double)
        got = mixer(x, before.double(), level.double())[0]
        raw = mixer.parts["in"](x)[0].unflatten(-1, (4, heads, -1))
        gates = mixer.parts["gates"](x)[0]
    silu, soft = (lambda a: a / (1 + np.exp(-a))), (lambda a: np.log1p(np.exp(a)))
    one = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
    q, k, v, z = (raw[:, i].numpy().transpose(1, 0, 2) for i in range(4))
    gates, order = gates.numpy(), list(range(text)) + list(range(text, text + video))[::-1 if reverse else 1]
    out = []
    for h in range(heads):
        more = {"ridge": soft(mixer.ridge.detach().numpy()[h]) + 0.25} if kind == "mesa" else \
            {"per_level": soft(gates[:, 2 * heads:]).reshape(text + video, heads, -1)[:, h]}
        o = by_definition(one(silu(q[h])), one(silu(k[h])), v[h], -soft(gates[:, h]), 1 / (1 + np.exp(-gates[:, heads + h])), order, **more)
        out.append(o / np.sqrt((o * o).mean(-1, keepdims=True) + 1e-5) * mixer.norm.detach().numpy() * silu(z[h]))
    want = np.concatenate(out, axis=-1) @ mixer.parts["out"].weight.detach().numpy().T
    assert np.abs(got.numpy() - want).max() < 1e-6 * np.abs(want).max() + (1e-4 if kind == "mesa" else 1e-6)


def test_every_stage_and_going_on(tmp_path, monkeypatch):
    """Each stage with as little as it can do; the file that comes out has what models/video_dit.h and models/thin_vae.h read."""
    torch = pytest.importorskip("torch")
    import train_video
    from folio import format
    torch.manual_seed(0)
    for plan, small in (("VAE", {"encoder": 8, "decoder": (16, 12, 8, 8), "steps": 2, "batch": 2}),
                        ("BANK", {"clips": 4, "shard": 4, "piece": 2}), ("FLOW", {"steps": 3, "batch": 4}),
                        ("JUDGE", {"vae": 1, "flow": 1, "often": 1, "card": 2, "scale": 2}), ("SAMPLER", {"steps": 1}),
                        ("MODEL", {"dim": 64, "heads": 2, "wide": 96, "layers": 2, "mixers": ["log_linear", "mesa"], "reverse": [0, 1]})):
        for key, value in small.items():
            monkeypatch.setitem(getattr(train_video, plan), key, value)
    run = lambda *more: train_video.main([more[0], "--out", str(tmp_path), "--threads", "2", "--device", "cpu", *more[1:]])
    with pytest.raises(SystemExit):
        run("all", "--minutes", "0")  # one step, saved
    assert torch.load(tmp_path / "vae.pt", weights_only=True)["step"] == 1 and not list(tmp_path.glob("bank*"))
    run("all")
    state = torch.load(tmp_path / "flow.pt", weights_only=True)
    assert state["step"] == 3 and torch.load(tmp_path / "vae.pt", weights_only=True)["step"] == 2
    said = (tmp_path / f"{train_video.NAME}.md").read_text()
    assert "2 steps" in said and "3 steps" in said and "| all prompts (2) |" in said
    file = format.read(tmp_path / f"{train_video.NAME}.folio")
    assert not file.verify() and file.metadata["arch"] == "video_dit" and file.metadata["vae.pad"] == "front"
    assert file.metadata["video.words"][:2] == ["<pad>", "<none>"] and file.metadata["video.levels"] == 8
    shape = lambda name: file.tensors[name].shape
    assert shape("flow.layer.0.mix.gates.weight") == (4 + 2 * 8, 64) and shape("flow.layer.1.mix.gates.weight") == (4, 64)
    assert shape("flow.layer.1.mix.ridge") == (2, 32) and shape("flow.layer.1.ffn.space.weight") == (9, 192)
    assert shape("encoder.4.conv.0.weight") == (18, 8, 8) and shape("decoder.13.conv.weight") == (2, 12, 12)
    taps = file.array("decoder.15.conv.0.weight").astype(np.float32)  # [past and current × 9, in, out]
    weight = torch.load(tmp_path / "vae.pt", weights_only=True)["average"]["decoder.15.conv.0.weight"].numpy()
    assert np.abs(taps[9:] - weight[:, :8].transpose(2, 3, 1, 0).reshape(9, 8, 8)).max() < 1e-3
    assert np.abs(taps[:9] - weight[:, 8:].transpose(2, 3, 1, 0).reshape(9, 8, 8)).max() < 1e-3
