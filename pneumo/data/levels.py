"""How stored grey values become 8 bits: pixel rule 2, the same for 16-bit PNG and DICOM.

Detectors store 10, 12 or 14 bits in 16. Pixel rule 1 divides by 257, which leaves 16 of 4,096 levels of a
12-bit image.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_BITS = 8  # detectors do not give fewer


def declared_range(bits: int, signed: bool = False) -> tuple[int, int]:
    """The lowest and the highest value of `bits` bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def white_above(largest: int) -> int:
    """The value shown as white if a file declares none: the least power of two above `largest`, minus 1.

    With a power of two, two films from one detector get the same scale even if their largest values differ.
    """
    return int(2 ** max(FEWEST_BITS, int(largest).bit_length()) - 1)


def between(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    """`values` scaled so that `low` becomes 0 and `high` becomes 1; not clipped."""
    return (np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-9)


def eight_bit(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shares 0..1 as grey levels 0..255; values outside are clipped."""
    return np.round(255 * shares.clip(0, 1)).astype(np.uint8)


def table(white: int) -> NDArray[np.uint8]:
    """The grey level of each 16-bit value, uint8 [65536], where `white` is shown as 255."""
    return eight_bit(between(np.arange(65536), 0, white))
