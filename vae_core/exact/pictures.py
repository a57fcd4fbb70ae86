"""Pictures that come as vectors: the shape that the cells of a row have, told by how like each other are cells some places apart.

Arrays of pictures are often stored flat, (n, 784) or (n, 3072). A shape is a number of colours, one plane after another or each
pixel's together, and a width. Each is judged by the median of the cell before, the one above and both less the one beside that (the
predictor of JPEG-LS: Weinberger, Seroussi and Sapiro, 2000); without a shape only the cell before is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
COLOURS = (3, 4, 2)
LEAST_SIDE = 8
PICTURES, CELLS = 256, 1 << 20  # that are looked at
WORTH_A_SHAPE, WORTH_COLOURS = 0.97, 0.985  # of the bits without
MOST_WIDTHS = 4


def hidden_shape(vectors: Ints) -> tuple[int, ...] | None:
    """The shape, (height, width), (colours, height, width) or (height, width, colours), of (n, n_cells) vectors; None where there is
    none."""
    n_cells = vectors.shape[1]
    if n_cells < LEAST_SIDE**2 or not len(vectors):
        return None
    some = vectors[:: -(-len(vectors) // min(PICTURES, max(1, CELLS // n_cells)))]
    plain = min(_bits(np.diff(some, axis=1)), _bits(some - np.median(some, axis=0).astype(np.int64)))
    best: tuple[float, tuple[int, ...]] | None = None
    for layout, cells in _layouts(some):
        size = cells.shape[-1]
        for width in _widths(cells):
            grid = cells.reshape(*cells.shape[:-1], size // width, width)
            bits = _bits(_told_by_colours(_off_median(grid))) / (WORTH_COLOURS if grid.shape[1] > 1 else 1.0)
            height = size // width
            shape = (height, width) if grid.shape[1] == 1 else (height, width, layout) if layout > 0 else (-layout, height, width)
            if best is None or bits < best[0]:
                best = bits, shape
    return best[1] if best is not None and best[0] < plain * WORTH_A_SHAPE else None


def _layouts(vectors: Ints) -> Iterator[tuple[int, Ints]]:
    """Colours (negative: plane after plane) and (n, colours, cells) of each way to see the vectors."""
    n, n_cells = vectors.shape
    yield 1, vectors[:, None]
    for colours in COLOURS:
        if n_cells % colours == 0 and n_cells // colours >= LEAST_SIDE**2:
            yield -colours, vectors.reshape(n, colours, -1)
            yield colours, vectors.reshape(n, -1, colours).swapaxes(1, 2)


def _widths(cells: Ints) -> list[int]:
    """Lengths of a row in which cells are most like those above."""
    size = cells.shape[-1]
    sides = [w for w in range(LEAST_SIDE, size // LEAST_SIDE + 1) if size % w == 0]
    return sorted(sides, key=lambda w: _bits(cells[..., w:] - cells[..., :-w]))[:MOST_WIDTHS]


def _off_median(grid: Ints) -> Ints:
    """(n, colours, height, width) distances from the prediction; of the first row from the cell before, of the first column from the
    one above."""
    off = grid.copy()
    off[..., 0, 1:] = np.diff(grid[..., 0, :], axis=-1)
    off[..., 1:, 0] = np.diff(grid[..., 0], axis=-1)
    before, above, beside = grid[..., 1:, :-1], grid[..., :-1, 1:], grid[..., :-1, :-1]
    low, high = np.minimum(before, above), np.maximum(before, above)
    off[..., 1:, 1:] = grid[..., 1:, 1:] - np.clip(before + above - beside, low, high)
    return off


def _told_by_colours(off: Ints) -> Ints:
    """The same, of each colour but the first as far as from the colour before, where that is less."""
    apart = np.diff(off, axis=1)
    return off if _bits(apart) >= _bits(off[:, 1:]) else np.concatenate([off[:, :1], apart], axis=1)


def _bits(off: Ints) -> float:
    """About what distances take, in bits each."""
    return float(np.log2(1 + np.abs(off)).mean()) if off.size else math.inf
