"""The course's cat pictures, and drawn ones that stand in for missing files.

A drawn cat is a head in front of a scene; a non-cat is a scene alone, with more things in it. Every
shape is a coverage: (64, 64) numbers in [0, 1], 1 inside, with an edge one pixel soft, computed in
the shape's own frame (moved, turned and scaled).
"""

import math
from typing import NamedTuple

import numpy as np

from accelnn.backend import Array

from .dataset import Dataset, DType, as_stand_in, on_backend
from .reading import AnyPath, Copies, DataFile, Schema, find_folder

CAT_FILES: Copies = {
    "train_catvnoncat.h5": (
        "neuralnetworks/week2/datasets/train_catvnoncat.h5",
        2_572_022,
        "fbe56ab67c3ae28d564e3a644189117976d6b31af0a3ce9bb17dbf22908af242",
    ),
    "test_catvnoncat.h5": (
        "neuralnetworks/week2/datasets/test_catvnoncat.h5",
        616_958,
        "6a9d39ce52fa85953c5834695b8534a30ed8cfd54971fb2f080b5a24d002b951",
    ),
}
_TRAIN, _TEST = CAT_FILES


def load_cats(folder: AnyPath | None = None, dtype: DType = None) -> Dataset:
    """The course's cat pictures: 209 to train on (72 cats) and 50 to test (33 cats).

    folder : with train_catvnoncat.h5 and test_catvnoncat.h5; by default the first of $ACCELNN_DATA,
        ./datasets and the user's cache that has them. If none has, drawn pictures of the same
        shapes stand in, with a StandInWarning; `accelnn data download cats` downloads the real ones
    dtype : of X and Y; by default the backend's

    Returns X (12288, m) in [0, 1], Y (1, m) of 0 (non-cat) and 1 (cat). Raises FileNotFoundError if
    a file is missing or ACCELNN_DATA is no folder, ValueError if the contents are wrong.
    """
    found = find_folder(folder, *CAT_FILES)
    if found is None:
        reason = f"no {_TRAIN} found; to download the real ones: accelnn data download cats"
        source = f"drawn stand-in for the cat pictures ({reason})"
        sets = draw_cats(209, 72, seed=0), draw_cats(50, 33, seed=1)
        drawn = on_backend(*sets, ("non-cat", "cat"), source, dtype)
        return as_stand_in(drawn, "cats", source)
    remedy = f"put whole copies of the course's {_TRAIN} and {_TEST} side by side"
    contents = []
    for part, name in (("train", _TRAIN), ("test", _TEST)):
        schema: Schema = {
            f"{part}_set_x": (np.uint8, ("m", 64, 64, 3)),
            f"{part}_set_y": (range(2), "m"),
            "list_classes": (np.bytes_, (2,)),
        }
        contents.append(DataFile(found / name, remedy).read_hdf5(schema).values())
    (*train, names), (*test, _) = contents
    classes = tuple(name.decode(errors="replace") for name in names)
    return on_backend(train, test, classes, f"{found / _TRAIN} and {_TEST}", dtype)


# ---------------------------------------------------------------------------------- the stand-in

_ROW, _COLUMN = np.mgrid[:64, :64].astype(np.float32)

_GINGER, _GREY, _BLACK = (226, 142, 62), (112, 112, 120), (42, 38, 40)
_WHITE, _BROWN, _CREAM = (238, 232, 222), (120, 84, 56), (222, 192, 148)
_FURS = (_GINGER, _GREY, _BLACK, _WHITE, _BROWN, _CREAM)
_EYES = ((120, 190, 70), (232, 196, 60), (90, 170, 220), (214, 150, 50))
_PINK, _DARK, _LIGHT = (228, 140, 140), (20, 18, 20), (250, 248, 244)

Point = tuple[float, float]


class _Frame(NamedTuple):
    """Coordinates of every pixel in a shape's own units; `u` runs right and `v` down."""

    u: Array
    v: Array
    pixels: float  # per unit


def draw_cats(m: int, n_cats: int, seed: int) -> tuple[Array, Array]:
    """`m` pictures (m, 64, 64, 3) uint8, `n_cats` of them cats, and their labels (m,) int64."""
    rng = np.random.RandomState(seed)
    labels = rng.permutation(np.arange(m) < n_cats).astype(np.int64)
    pictures = np.empty((m, 64, 64, 3), np.uint8)
    image = np.empty((3, 64, 64), np.float32)  # colours first, for fast painting
    for picture, is_cat in zip(pictures, labels, strict=True):
        start, end = rng.uniform(20, 240, (2, 3)).astype(np.float32)
        image[...] = start[:, None, None]  # the background: from one colour to another
        _paint(image, (_frame(31.5, 31.5, 45, rng.uniform(0, 6.28)).u + 1) / 2, end)
        for _ in range(rng.randint(1, 3) if is_cat else rng.randint(3, 7)):
            _paint_thing(image, rng)
        if is_cat:
            _paint_cat(image, rng)
        image *= rng.uniform(0.75, 1.1)  # the light
        picture[...] = np.clip(image, 0, 255).transpose(1, 2, 0)
    return pictures, labels


def _paint_thing(image: Array, rng: np.random.RandomState) -> None:
    """Paint an ellipse, a rectangle, a triangle or stripes, anywhere in the picture."""
    frame = _frame(rng.uniform(4, 60), rng.uniform(4, 60), rng.uniform(8, 26), rng.uniform(0, 6.28))
    width = rng.uniform(0.3, 1)
    kind = rng.choice(["ellipse", "rectangle", "triangle", "stripes"])
    if kind == "ellipse":
        shape = _ellipse(frame, (0, 0), 1, width)
    elif kind == "triangle":
        shape = _triangle(frame, (-1, width), (1, width), (rng.uniform(-1, 1), -width))
    else:
        shape = _soft(np.minimum(1 - np.abs(frame.u), width - np.abs(frame.v)), frame)
    if kind == "stripes":
        period = rng.uniform(0.2, 0.6)
        shape *= _soft(np.abs(frame.u / period % 2 - 1) * period - period / 2, frame)
    fur = np.array(_FURS[rng.randint(len(_FURS))])  # so that no colour gives a cat away
    _paint(image, shape, fur if rng.rand() < 0.4 else rng.uniform(0, 255, 3))


def _paint_cat(image: Array, rng: np.random.RandomState) -> None:
    """Paint a cat's head, with its centre at (0, 0) and its cheeks at u = ±1, on a body."""
    x, y, size = rng.uniform(24, 39), rng.uniform(29, 41), rng.uniform(15, 23)
    frame = _frame(x, y, size, rng.uniform(-0.3, 0.3))
    both = frame._replace(u=np.abs(frame.u))  # a shape on the right appears on both sides
    look = rng.uniform(-0.1, 0.1)  # to the left or to the right
    face = frame._replace(u=np.abs(frame.u - look))
    height, ear_u, ear_v = rng.uniform(0.78, 0.95), rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.8)
    fur = np.array(_FURS[rng.randint(len(_FURS))]) + rng.uniform(-18, 18)
    shade, pale = 0.7 * fur, 0.5 * fur + 122

    _paint(image, _ellipse(frame, (look, 1.7), 1.05, 1.3), shade)
    tip = ear_u, -height - ear_v
    _paint(image, _triangle(both, (0.97, -0.1), (0.12, -0.85 * height), tip), 0.85 * fur)
    inner_tip = ear_u - 0.05, -height - 0.7 * ear_v
    _paint(image, _triangle(both, (0.82, -0.5), (0.35, -0.85 * height), inner_tip), _PINK)
    head = _ellipse(frame, (0, 0), 1, height)
    _paint(image, head, fur)
    if rng.rand() < 0.5:  # a tabby
        for u in (0, 0.3):
            _paint(image, _line(face, (u, -0.8), (0.7 * u, -0.5), 0.1) * head, shade)

    pupil = rng.uniform(0.06, 0.15)
    _paint(image, _ellipse(face, (0.43, -0.08), 0.27, 0.24), _DARK)
    _paint(image, _ellipse(face, (0.43, -0.08), 0.22, 0.2), _EYES[rng.randint(len(_EYES))])
    _paint(image, _ellipse(face, (0.43, -0.08), pupil, 0.19), _DARK)
    _paint(image, _ellipse(face, (0.43, -0.17), 0.05, 0.05), _LIGHT)
    _paint(image, _ellipse(face, (0.2, 0.42), 0.27, 0.22) * head, pale)
    _paint(image, _line(face, (0, 0.53), (0.2, 0.46), 0.05), _DARK)
    _paint(image, _triangle(face, (-0.13, 0.22), (0.13, 0.22), (0, 0.38)), _PINK)
    whiskers = _LIGHT if rng.rand() < 0.7 else _DARK
    for v in (0.28, 0.5):
        _paint(image, 0.7 * _line(face, (0.35, 0.42), (1.25, v), 0.03), whiskers)


def _paint(image: Array, coverage: Array, colour: Array | tuple[int, int, int]) -> None:
    image += coverage * (np.asarray(colour, np.float32)[:, None, None] - image)


def _frame(x: float, y: float, pixels: float, angle: float) -> _Frame:
    """The frame with its centre at column x and row y, turned by `angle`."""
    cos, sin = math.cos(angle) / pixels, math.sin(angle) / pixels
    right, down = _COLUMN - x, _ROW - y
    return _Frame(cos * right + sin * down, cos * down - sin * right, pixels)


def _soft(distance: Array, frame: _Frame) -> Array:
    """The coverage of a shape from the distance to its edge, positive inside."""
    return np.clip(distance * frame.pixels + 0.5, 0, 1)


def _ellipse(frame: _Frame, centre: Point, a: float, b: float) -> Array:
    radius = np.sqrt(((frame.u - centre[0]) / a) ** 2 + ((frame.v - centre[1]) / b) ** 2)
    return _soft((1 - radius) * min(a, b), frame)


def _triangle(frame: _Frame, *corners: Point) -> Array:
    (u0, v0), (u1, v1), (u2, v2) = corners
    turn = math.copysign(1, (u1 - u0) * (v2 - v0) - (v1 - v0) * (u2 - u0))
    edges = []
    for (u, v), (next_u, next_v) in zip(corners, corners[1:] + corners[:1], strict=True):
        du, dv = next_u - u, next_v - v
        scale = turn / math.hypot(du, dv)
        edges.append(scale * du * (frame.v - v) - scale * dv * (frame.u - u))
    return _soft(np.minimum.reduce(edges), frame)


def _line(frame: _Frame, start: Point, end: Point, width: float) -> Array:
    u, v = frame.u - start[0], frame.v - start[1]
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip((u * du + v * dv) / (du * du + dv * dv), 0, 1)
    distance = np.sqrt((u - along * du) ** 2 + (v - along * dv) ** 2)
    return _soft(width / 2 - distance, frame)
