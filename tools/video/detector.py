# SPDX-License-Identifier: CC0-1.0
"""What is to be seen in a clip of shapes: its five attributes, measured and not learned. It never hears of the prompt.

Background: the median of the border. Colour: the median of what differs most from it. Both known, every pixel is a mixture of the two,
and its share of the shape's colour is a soft mask: area and centre are its moments, size and motion follow from their course over time.
Shape: each of the four, at every angle, is drawn with the mask's centre and area, and what overlaps best has won.
"""
import numpy as np

from .shapes import BACKGROUNDS, COLOURS, MOTIONS, RADII, SCALE, SHAPES, Scene, coverage

LEAST = 8.0        # pixels of a shape that is there
TURNS = 12         # angles tried; a triangle repeats after 120 degrees, square and cross after 90
LOOKS = 7          # frames on which the shape is compared


def detect(clip):
    """[T, H, W, 3] in 0 .. 1 -> Scene, or None if there is nothing to be seen in most frames."""
    clip = np.asarray(clip, np.float32)
    border = np.concatenate([clip[:, :3].reshape(-1, 3), clip[:, -3:].reshape(-1, 3),
                             clip[:, :, :3].reshape(-1, 3), clip[:, :, -3:].reshape(-1, 3)])
    back = np.median(border, axis=0)
    away = np.linalg.norm(clip - back, axis=-1)
    most = away.max(axis=(1, 2), keepdims=True)
    if np.median(most) < 0.15:
        return None
    front = np.median(clip[(away > 0.7 * most) & (most > 0.15)], axis=0)
    axis = front - back
    mask = np.clip((clip - back) @ axis / max(axis @ axis, 1e-6), 0, 1)
    mask[mask < 0.2] = 0
    area = mask.sum(axis=(1, 2))
    there = area >= LEAST
    if there.mean() < 0.7:
        return None
    grid = np.arange(clip.shape[1]) + 0.5, np.arange(clip.shape[2]) + 0.5
    y = (mask.sum(axis=2) @ grid[0]) / np.maximum(area, 1)
    x = (mask.sum(axis=1) @ grid[1]) / np.maximum(area, 1)
    shape, radius = _shape(mask, x, y, area, there)
    motion = _motion(x[there], y[there], radius[there], np.linspace(0, 1, len(clip))[there])
    typical = np.median(radius[there]) / (np.mean(SCALE) if MOTIONS[motion] in ("growing", "shrinking") else 1)
    return Scene(int(typical > (RADII[0][1] + RADII[1][0]) / 2), _nearest(COLOURS, front), shape, motion, _nearest(BACKGROUNDS, back))


def _nearest(table, colour):
    return int(np.argmin([np.linalg.norm(np.array(c) - colour) for c in table.values()]))


def _areas():
    """Area of each shape of radius 1."""
    at = (np.arange(400) + 0.5) / 100 - 2
    return [float((coverage(s, 40 * at[None, :], 40 * at[:, None], 40.0)).mean() * 16) for s in range(len(SHAPES))]


AREAS = _areas()


def _shape(mask, x, y, area, there):
    """The shape, and the radius in every frame that gives it its area."""
    frames = [t for t in np.argsort(-area)[:LOOKS] if there[t]]
    score = np.zeros(len(SHAPES))
    for t in frames:
        reach = int(1.8 * (area[t] / min(AREAS)) ** 0.5) + 2
        rows = slice(max(0, int(y[t]) - reach), int(y[t]) + reach + 1)
        columns = slice(max(0, int(x[t]) - reach), int(x[t]) + reach + 1)
        seen = mask[t, rows, columns]
        v = (np.arange(rows.start, rows.start + seen.shape[0]) + 0.5 - y[t])[None, :, None]
        u = (np.arange(columns.start, columns.start + seen.shape[1]) + 0.5 - x[t])[None, None, :]
        for s, name in enumerate(SHAPES):
            turns = np.arange(1 if name == "circle" else TURNS) / TURNS * (2 / 3 if name == "triangle" else 1 / 2) * np.pi
            c, d = np.cos(turns)[:, None, None], np.sin(turns)[:, None, None]
            drawn = coverage(s, c * u + d * v, c * v - d * u, (area[t] / AREAS[s]) ** 0.5)
            overlap = np.minimum(drawn, seen).sum(axis=(1, 2)) / np.maximum(drawn, seen).sum(axis=(1, 2))
            score[s] += overlap.max()
    best = int(np.argmax(score))
    return best, (area / AREAS[best]) ** 0.5


def _motion(x, y, radius, time):
    """From the course of centre and radius; what does none of the other seven is spinning."""
    line = lambda z: np.polyval(np.polyfit(time, z, 1), time)
    grown = line(radius)[-1] - line(radius)[0]
    wide, high = np.ptp(line(x)), np.ptp(line(y))
    if abs(grown) > 0.45 * np.median(radius):
        return MOTIONS.index("growing" if grown > 0 else "shrinking")
    if np.ptp(y) > 10 and np.std(y - line(y)) > 3.5 and wide < 10:
        return MOTIONS.index("bouncing")
    if max(wide, high) > 10:
        forward = (line(x) if wide > high else line(y))
        names = ("moving left", "moving right") if wide > high else ("moving up", "moving down")
        return MOTIONS.index(names[int(forward[-1] > forward[0])])
    return MOTIONS.index("spinning")


def marks(seen, scene):
    """Which attributes of the scene were seen (None: nothing was), and `all`: colour, shape and motion together."""
    each = {name: seen is not None and getattr(seen, name) == getattr(scene, name)
            for name in ("colour", "motion", "shape", "size", "background")}
    return {"all": each["colour"] and each["motion"] and each["shape"], **each}


def mean_marks(marks):
    return {name: float(np.mean([m[name] for m in marks])) for name in marks[0]}
