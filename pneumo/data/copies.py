"""Near-copies: the same picture saved again with another quality or size, or cropped by a few percent.

Identical bytes are found by hashing (pneumo.data.manifest). Here, the prepared images are compared, so
nothing is decoded again:

1. A perceptual hash proposes pairs: 64 numbers for each image, those of its coarse structure, and 64 of its
   middle. The most similar images of other splits or labels are candidates. This alone proves nothing: two
   X-rays of two people can have the same coarse structure.
2. Each pair is aligned: shift and scale of both axes, by Gauss-Newton steps (Lucas and Kanade 1981).
3. The correlation of the fine structure of the aligned pixels decides. Ribs and vessels of two people do not
   lie on each other, and neither do those of one person on two films.

Measured by tools/measure_copies.py; tests/data/test_copies.py asserts it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pneumo import UserError
from pneumo.data.cache import ImageCache
from pneumo.files import write_atomically

VERSION = 1  # of the search; a change of its results raises it
SIDE = 96  # pixels of the images that are compared
LEAST_SIDE = 64  # of the prepared images: smaller ones do not have the fine structure
# Correlations of the fine structure. Of planted copies 99 % were above .91. All other pairs were below .85,
# and the most similar ones are two films of one patient.
CERTAIN = 0.88
UNCERTAIN = 0.86
LEAST_DETAIL = 0.4  # grey levels, root mean square: an image without fine structure is a copy of no other
CANDIDATES = 5  # an image's pairs that are aligned
MOST_IMAGES = 30_000  # that `pneumo data check` compares; the work grows with the square

_COARSE = 48
_MIDDLE = 0.035  # of each side: a copy that is cropped by 2 to 5 % is between the whole image and its middle
_PROPOSED = 0.9  # similarity of the hashes; of planted copies 99 % were above .95
_SHIFT = 4  # pixels of 32 that an image can be shifted by before alignment
_WORTH = 0.91  # correlation after that shift; of planted copies 99 % were above .93
_LARGEST_CHANGE = 0.16  # of a scale from 1, and of a shift from 0 in shares of a side
_QUERIES = 256
_PAIRS = 128

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
_SAME = np.array([1, 0, 1, 0], np.float32)  # the change that changes nothing


@dataclass(frozen=True, kw_only=True)
class NearCopy:
    """Two images that show the same picture; `is_certain` unless the correlation leaves a doubt."""

    first: str
    second: str
    splits: tuple[str, str]
    labels: tuple[int, int]
    correlation: float
    is_certain: bool


def near_copies(data: ImageCache, cache_dir: Path) -> list[NearCopy]:
    """The pairs of near-copies across splits or labels, the most similar first.

    Each image is compared with those of larger groups (a group: the images of one split and label). What was
    found is recorded in `cache_dir`, so the same data are searched once.
    """
    identity = json.dumps([VERSION, data.digest, data.preprocess], sort_keys=True)
    record = cache_dir / f"copies-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    try:
        return [_from_record(**pair) for pair in json.loads(record.read_text())["pairs"]]
    except (OSError, ValueError, KeyError, TypeError):
        pairs = _search(data)
    with suppress(OSError, UserError):  # a full or read-only disk: the record only saves time
        content = {"pairs": [asdict(pair) for pair in pairs]}
        write_atomically(record, json.dumps(content).encode(errors="surrogateescape"))
    return pairs


def _from_record(splits: list[str], labels: list[int], **rest: Any) -> NearCopy:
    return NearCopy(splits=(splits[0], splits[1]), labels=(labels[0], labels[1]), **rest)


def _search(data: ImageCache) -> list[NearCopy]:
    table = data.manifest.table
    if len(table) == 0 or data.images.shape[1] < LEAST_SIDE:
        return []
    splits, labels, paths = (table[name].tolist() for name in ("split", "label", "path"))
    names = [f"{split} {label}" for split, label in zip(splits, labels, strict=True)]
    sizes = {name: names.count(name) for name in {*names}}
    order = {name: place for place, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name)))}
    groups = np.array([order[name] for name in names])
    # The matrices are small: on a busy machine, threads that wait for each other take ten times as long.
    with threadpool_limits(1, "blas"):
        found = find(data.images, data.rows, groups)
    return [
        NearCopy(
            first=paths[first],
            second=paths[second],
            splits=(splits[first], splits[second]),
            labels=(int(labels[first]), int(labels[second])),
            correlation=correlation,
            is_certain=correlation >= CERTAIN,
        )
        for first, second, correlation in found
    ]


class Squares(Protocol):
    """Prepared images [M, S, S], one by one."""

    def __getitem__(self, row: Any, /) -> Any: ...


def find(images: Squares, rows: Ints, groups: Ints) -> list[tuple[int, int, float]]:
    """(first, second, correlation) of the near-copies among the prepared `images` [M, S, S].

    `rows` [N] gives the row in `images` of each image, `groups` [N] its group. Only pairs of two groups are
    compared, and not those that share a row: these have identical bytes.
    """
    unique, places = np.unique(rows, return_inverse=True)
    thumbs = np.empty((len(unique), SIDE, SIDE), np.uint8)
    hashes = np.empty((2, len(unique), 64), np.float32)
    for start in range(0, len(unique), _QUERIES):
        part = slice(start, start + _QUERIES)
        thumbs[part] = [_content(images[row]) for row in unique[part]]
        hashes[:, part] = _hashes(thumbs[part])
    pairs = _proposed(hashes[:, places], rows, groups)
    found = []
    with tqdm(total=len(pairs), desc="Compare images", unit="pair", disable=None, leave=False) as bar:
        for start in range(0, len(pairs), _PAIRS):
            first, second = pairs[start : start + _PAIRS].T
            scores = correlations(thumbs[places[first]], thumbs[places[second]])
            hits = np.flatnonzero(scores >= UNCERTAIN)
            found += [(int(first[hit]), int(second[hit]), float(scores[hit])) for hit in hits]
            bar.update(len(first))
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _content(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A prepared image without its padding, SIDE x SIDE, so that the aspect ratio does not matter."""
    image = Image.fromarray(np.ascontiguousarray(square))
    box = image.getbbox() or (0, 0, *image.size)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))


# ---- filters. All are separable: one matrix for rows and one for columns.


@cache
def _gauss(side: int, sigma: float) -> Floats:
    """The matrix [side, side] that blurs along one axis; its rows sum to 1."""
    place = np.arange(side)
    weights = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@cache
def _mean(side: int, small: int) -> Floats:
    """The matrix [small, side] of means along one axis."""
    matrix = np.zeros((small, side), np.float32)
    for row in range(small):
        matrix[row, row * side // small : (row + 1) * side // small] = small / side
    return matrix


@cache
def _zoom(side: int, share: float) -> Floats:
    """The matrix [side, side] that shows the middle of an axis, `share` cut off at both ends."""
    place = np.arange(side, dtype=np.float32)
    return _interpolation(((place + 0.5) * (1 - 2 * share) + share * side - 0.5)[None], side)[0]


def _interpolation(places: Floats, side: int) -> Floats:
    """Matrices [n, k, side] that take linear interpolations at `places` [n, k]; 0 outside of the axis."""
    return np.maximum(0, 1 - np.abs(places[..., None] - np.arange(side, dtype=np.float32)))


def _both(images: Floats, matrix: Floats) -> Floats:
    return matrix @ images @ np.swapaxes(matrix, -1, -2)


def _band(images: Floats, fine: float, coarse: float) -> Floats:
    """The structure between two sizes: the difference of two blurred images."""
    side = images.shape[-1]
    return _both(images, _gauss(side, fine)) - _both(images, _gauss(side, coarse))


def _unit(vectors: Floats) -> Floats:
    centred = vectors - vectors.mean(-1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-6)


# ---- proposals


def _hashes(thumbs: NDArray[np.uint8]) -> Floats:
    """The coarse structure of images [n, SIDE, SIDE] and of their middle, [2, n, 64]."""
    whole = _both(thumbs.astype(np.float32), _mean(SIDE, _COARSE))
    middle = _both(whole, _zoom(_COARSE, _MIDDLE))
    parts = [_both(_band(images, 2, 12), _mean(_COARSE, 8)) for images in (whole, middle)]
    return np.stack([_unit(part.reshape(len(thumbs), 64)) for part in parts])


def _proposed(hashes: Floats, rows: Ints, groups: Ints) -> Ints:
    """Pairs [P, 2] of images of two groups with similar hashes [2, N, 64].

    A larger group has a larger number. Each image is looked for in the larger groups, so each pair of groups
    is searched once.
    """
    found = [np.zeros((0, 2), np.int64)]
    order = np.argsort(groups, kind="stable")
    whole, middle = hashes[:, order]
    ordered, contents = groups[order], rows[order]
    ends = np.searchsorted(ordered, ordered, "right")  # where the larger groups begin
    for start in range(0, len(order), _QUERIES):
        query = np.arange(start, min(start + _QUERIES, len(order)))
        first = int(ends[start])
        if first == len(order):
            break
        same = whole[query] @ whole[first:].T
        np.maximum(same, middle[query] @ whole[first:].T, out=same)
        np.maximum(same, whole[query] @ middle[first:].T, out=same)
        columns = np.arange(first, len(order))
        same[(columns < ends[query][:, None]) | (contents[first:] == contents[query][:, None])] = -1
        count = min(CANDIDATES, same.shape[1])
        best = np.argpartition(-same, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(same, best, 1) >= _PROPOSED
        pairs = np.stack([np.repeat(query, count), first + best.ravel()], 1)[near.ravel()]
        found.append(order[pairs])
    return np.concatenate(found)


# ---- alignment


def correlations(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Floats:
    """The correlation [n] of the fine structure of images [n, SIDE, SIDE] after alignment, at least 0.

    0 where an earlier step shows that the images differ, or where one has no fine structure.
    """
    scores = np.zeros(len(first), np.float32)
    a, b = (_both(part.astype(np.float32), _mean(SIDE, _COARSE)) for part in (first, second))
    similarity, changes = _shifted(a, b)
    left = np.flatnonzero(similarity >= _WORTH)
    changes = _refined(_band(a[left], 1.5, 6), _band(b[left], 1.5, 6), changes[left], steps=6)
    changes = _refined(_band(a[left], 0.5, 2), _band(b[left], 0.5, 2), changes, steps=4)
    fine = _matched(_band(a[left], 0.5, 1.5), _band(b[left], 0.5, 1.5), changes)
    keep = fine >= UNCERTAIN - 0.3  # at half the size, copies are about as similar as at the whole one
    left, changes = left[keep], changes[keep]
    a, b = (part[left].astype(np.float32) for part in (first, second))
    changes = _refined(_band(a, 1, 4), _band(b, 1, 4), changes, steps=4)
    scores[left] = _matched(_band(a, 0.8, 2.5), _band(b, 0.8, 2.5), changes).clip(0)
    return scores


def _shifted(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The best correlation [n] of coarse images over shifts, and the change [n, 4] that gives it.

    A change is (scale, shift) of the rows, then of the columns: the place p of the first image, from -.5 to
    .5, shows the place scale * p + shift of the second.
    """
    side = 32
    window = np.sqrt(np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])).astype(np.float32)
    middles = [_both(part, _zoom(_COARSE, _MIDDLE)) for part in (a, b)]
    spectra = []
    for part in (a, middles[0], b, middles[1]):
        small = _both(part, _resized(_COARSE, side))
        flat = _band(small, 0.7, 4)
        flat = (flat - flat.mean((1, 2), keepdims=True)) * window
        flat /= np.maximum(np.sqrt((flat**2).sum((1, 2), keepdims=True)), 1e-6)
        spectra.append(np.fft.rfft2(flat))
    zoomed = 1 - 2 * _MIDDLE
    reach = np.arange(-_SHIFT, _SHIFT + 1)
    best, changes = np.full(len(a), -1, np.float32), np.tile(_SAME, (len(a), 1))
    pairs = ((0, 2, 1.0), (1, 2, 1 / zoomed), (0, 3, zoomed))
    for one, other, scale in pairs:
        peaks = np.fft.irfft2(spectra[one] * spectra[other].conj(), s=(side, side))
        near = peaks[:, reach[:, None], reach].reshape(len(a), -1)
        place = near.argmax(1)
        value = np.take_along_axis(near, place[:, None], 1)[:, 0].astype(np.float32)
        better = value > best
        rows, columns = (-reach[part] / side for part in np.divmod(place, len(reach)))
        change = np.stack([np.full(len(a), scale), rows, np.full(len(a), scale), columns], 1)
        best[better], changes[better] = value[better], change[better].astype(np.float32)
    return best, changes


@cache
def _resized(side: int, small: int) -> Floats:
    """The matrix [small, side] that resizes an axis: a blur, then linear interpolation."""
    place = np.arange(small, dtype=np.float32)
    return _interpolation(((place + 0.5) * side / small - 0.5)[None], side)[0] @ _gauss(side, 0.5)


def _warped(images: Floats, changes: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Images [n, S, S] under their changes [n, 4], and where that is inside of them."""
    side = images.shape[-1]
    place = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5)[None]
    rows, columns = (
        ((changes[:, axis, None] * place + changes[:, axis + 1, None] + 0.5) * side - 0.5) for axis in (0, 2)
    )
    warped = _interpolation(rows, side) @ images @ _interpolation(columns, side).swapaxes(1, 2)
    inside = [(part >= 0) & (part <= side - 1) for part in (rows, columns)]
    return warped, inside[0][:, :, None] & inside[1][:, None, :]


def _normal(images: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Images with mean 0 and norm 1 inside, 0 outside."""
    count = np.maximum(inside.sum((1, 2), keepdims=True), 1)
    centred = np.where(inside, images - (images * inside).sum((1, 2), keepdims=True) / count, 0)
    norm = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    return (centred / np.maximum(norm, LEAST_DETAIL * np.sqrt(count))).astype(np.float32)


def _refined(a: Floats, b: Floats, changes: Floats, steps: int) -> Floats:
    """Better changes: Gauss-Newton on the difference of the normalised images; the best of all steps."""
    if not len(a):
        return changes
    side = a.shape[-1]
    place = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5)[None]
    best, kept = np.full(len(a), -2, np.float32), changes.copy()
    changes = changes.copy()
    for step in range(steps + 1):
        warped, inside = _warped(b, changes)
        x, y = _normal(a, inside), _normal(warped, inside)
        score = (x * y).sum((1, 2))
        better = score > best
        best[better], kept[better] = score[better], changes[better]
        if step == steps:
            break
        down, right = (np.gradient(y, 1 / side, axis=axis) for axis in (1, 2))
        down, right = down / changes[:, 0, None, None], right / changes[:, 2, None, None]
        slopes = np.stack([down * place[..., None], down, right * place[:, None], right], 1)
        slopes = (slopes * inside[:, None]).reshape(len(a), 4, -1)
        squares = slopes @ slopes.swapaxes(1, 2)
        damping = 1e-3 * np.trace(squares, axis1=1, axis2=2)[:, None, None] / 4 + 1e-6
        moved = np.linalg.solve(squares + damping * np.eye(4, dtype=np.float32),
                                slopes @ (x - y).reshape(len(a), -1, 1))[..., 0]  # fmt: skip
        after = changes + moved.astype(np.float32)
        possible = (np.abs(after - _SAME) < _LARGEST_CHANGE).all(1)
        changes = np.where(possible[:, None], after, changes)
    return kept


def _matched(a: Floats, b: Floats, changes: Floats) -> Floats:
    """The correlation [n] of `a` with `b` under `changes`, without the outermost pixels."""
    if not len(a):
        return np.zeros(0, np.float32)
    warped, inside = _warped(b, changes)
    inside = inside.copy()
    for edge in (inside[:, :3], inside[:, -3:], inside[:, :, :3], inside[:, :, -3:]):
        edge[...] = False
    return np.asarray((_normal(a, inside) * _normal(warped, inside)).sum((1, 2)), np.float32)


def described(pairs: list[NearCopy], count: int = 10) -> Iterator[str]:
    """A line for each of the first `count` pairs."""
    for pair in pairs[:count]:
        yield f"{pair.first} and {pair.second} (correlation {pair.correlation:.2f})"
    if len(pairs) > count:
        yield f"and {len(pairs) - count} more"
