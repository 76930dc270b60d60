"""Arrays and numbers of a model's reference as JSON, and the checks of one that may come from elsewhere."""

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(array: NDArray[np.floating[Any]]) -> str:
    """As base64 of float16, which changes a score only in its fourth digit."""
    return base64.b64encode(array.astype("<f2").tobytes()).decode()


def unpacked(text: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The array of `packed`, or ValueError."""
    if not isinstance(text, str) or len(text) > 10**6:
        raise ValueError
    try:
        array = np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float64)
    except binascii.Error:
        raise ValueError from None
    if not np.isfinite(array).all():
        raise ValueError
    return array.reshape(shape)


def numbers(values: Any, least: int, most: int) -> NDArray[np.float64]:
    """`least` to `most` positive numbers, or ValueError."""
    if not isinstance(values, list) or not least <= len(values) <= most:
        raise ValueError
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise ValueError
    array = np.asarray(values, dtype=np.float64)
    if not ((array > 0) & (array < 1e9)).all():
        raise ValueError
    return array
