# SPDX-License-Identifier: CC0-1.0
"""Captioned clips of one moving shape, drawn on the spot: what the video model learns from.

A Scene is five attributes; "a large red circle bouncing on a gray background" says them in words. draw() gives a scene a place, a path
and small deviations of size and colour; a Clip renders any window of itself: shapes are signed distances, so edges are anti-aliased
by half a pixel and crops cost only their own pixels. A tenth of the (colour, shape, motion) triples is held out: no training clip has
them, each of their words is known from others, so they show whether the model composes.
"""
from dataclasses import dataclass

import numpy as np

FRAMES, SIDE, TEXT = 17, 64, 12  # TEXT: words of a caption with its filling
SIZES = ("small", "large")
COLOURS = {"red": (0.88, 0.10, 0.10), "green": (0.12, 0.72, 0.18), "blue": (0.15, 0.28, 0.95), "yellow": (0.95, 0.90, 0.12),
           "magenta": (0.88, 0.15, 0.82), "cyan": (0.12, 0.84, 0.90), "white": (0.96, 0.96, 0.96), "orange": (0.98, 0.52, 0.06)}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "bouncing", "spinning", "growing", "shrinking")
BACKGROUNDS = {"black": (0.03, 0.03, 0.03), "gray": (0.40, 0.40, 0.42), "navy": (0.05, 0.06, 0.26)}
ATTRIBUTES = {"size": len(SIZES), "colour": len(COLOURS), "shape": len(SHAPES), "motion": len(MOTIONS), "background": len(BACKGROUNDS)}

RADII = ((8.0, 9.5), (13.0, 15.0))  # of SIZES, in pixels
SCALE = (0.35, 1.3)                 # of the radius, from the first to the last frame of "growing"
REACH = 1.25                        # no shape reaches farther from its centre than this many radii

PAD, NONE = 0, 1
WORDS = ("<pad>", "<none>", "a", "on", "background", *SIZES, *COLOURS, *SHAPES, "moving", "left", "right", "up", "down", "bouncing",
         "spinning", "growing", "shrinking", *BACKGROUNDS)


@dataclass(frozen=True)
class Scene:
    """Indices into SIZES, COLOURS, SHAPES, MOTIONS, BACKGROUNDS."""
    size: int
    colour: int
    shape: int
    motion: int
    background: int

    @property
    def held_out(self):
        return (self.colour, self.shape, self.motion) in HELD_OUT


def _held_out():
    colours, shapes, motions = len(COLOURS), len(SHAPES), len(MOTIONS)
    chosen = np.random.default_rng(2026).permutation(colours * shapes * motions)[:colours * shapes * motions // 10]
    return frozenset((int(i) // (shapes * motions), int(i) // motions % shapes, int(i) % motions) for i in chosen)


HELD_OUT = _held_out()


def any_scene(rng):
    return Scene(**{name: int(rng.integers(count)) for name, count in ATTRIBUTES.items()})


def training_scene(rng):
    while (scene := any_scene(rng)).held_out:
        pass
    return scene


def caption(scene, size=True, background=True):
    """In words; a caption may leave out size and background."""
    words = ["a"] + [SIZES[scene.size]] * size + [list(COLOURS)[scene.colour], SHAPES[scene.shape], MOTIONS[scene.motion]]
    return " ".join(words + [f"on a {list(BACKGROUNDS)[scene.background]} background"] * background)


def encode(text):
    """Indices into WORDS, TEXT of them."""
    words = text.split()
    unknown = [w for w in words if w not in WORDS[2:]]
    if unknown or len(words) > TEXT:
        raise ValueError(f"'{text}': unknown {unknown}; up to {TEXT} of {' '.join(WORDS[2:])}")
    return [WORDS.index(w) for w in words] + [PAD] * (TEXT - len(words))


NO_CAPTION = [NONE] + [PAD] * (TEXT - 1)


def distance(shape, x, y, r):
    """Signed distance in pixels to a shape's edge, below zero inside; x to the right and y down from its centre, r its radius."""
    if SHAPES[shape] == "circle":
        return np.hypot(x, y) - r
    if SHAPES[shape] == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * r
    if SHAPES[shape] == "triangle":  # three half planes around the incircle; a corner points up
        return np.maximum(y, 3 ** 0.5 / 2 * abs(x) - y / 2) - 0.62 * r
    bar = lambda a, b: np.maximum(abs(a) - 1.05 * r, abs(b) - 0.36 * r)
    return np.minimum(bar(x, y), bar(y, x))


def coverage(shape, x, y, r):
    """Share of each pixel that the shape covers."""
    return np.clip(0.5 - distance(shape, x, y, r), 0, 1)


@dataclass
class Clip:
    scene: Scene
    x: np.ndarray       # [FRAMES] f32 each: centre, radius in pixels, angle
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    front: np.ndarray   # [3] RGB of the shape and of what is behind it
    back: np.ndarray

    def render(self, frames=slice(None), rows=slice(0, SIDE), columns=slice(0, SIDE)):
        """[T, H, W, 3] f32 in 0 .. 1 of a window."""
        of = lambda values: values[frames, None, None]
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[None, :, None] + np.float32(0.5) - of(self.y)
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, None, :] + np.float32(0.5) - of(self.x)
        if self.angle.any():
            c, s = np.cos(of(self.angle)), np.sin(of(self.angle))
            x, y = c * x + s * y, c * y - s * x
        share = coverage(self.scene.shape, x, y, of(self.radius))[..., None].astype(np.float32)
        return self.back + share * (self.front - self.back)


def draw(rng, scene):
    """A clip of the scene."""
    r = rng.uniform(*RADII[scene.size])
    time, motion = np.linspace(0, 1, FRAMES), MOTIONS[scene.motion]
    radius, angle = np.full(FRAMES, r), np.zeros(FRAMES)
    if motion in ("growing", "shrinking"):
        radius = r * np.linspace(*SCALE[::1 if motion == "growing" else -1], FRAMES)
    edge = REACH * radius.max() + 1
    low, high = edge, SIDE - edge
    x, y = np.full(FRAMES, rng.uniform(low, high)), np.full(FRAMES, rng.uniform(low, high))
    if motion.startswith("moving"):
        way = rng.uniform(0.75, 1) * (high - low)
        path = rng.uniform(low, high - way) + way * time
        if motion in ("moving left", "moving up"):
            path = path[::-1]
        x, y = (path, y) if motion in ("moving left", "moving right") else (x, path)
    elif motion == "bouncing":  # parabolas that touch the ground
        beat = (rng.uniform(0, 1) + rng.uniform(1.5, 2) * time) % 1
        y = high - rng.uniform(0.8, 1) * (high - low) * 4 * beat * (1 - beat)
    elif motion == "spinning":
        angle = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * rng.uniform(1.2, 2.2) * np.pi * time
    colour = lambda table, index, jitter: np.clip(np.array(list(table.values())[index]) + rng.normal(0, jitter, 3), 0, 1)
    numbers = (x, y, radius, angle, colour(COLOURS, scene.colour, 0.02), colour(BACKGROUNDS, scene.background, 0.01))
    return Clip(scene, *(a.astype(np.float32) for a in numbers))
