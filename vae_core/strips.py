"""Whether columns of one type side by side are better stored as one vector a row (pixels, curves, embeddings that were laid out flat), and
vectors as columns (features of kinds of their own that are a matrix)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vae_core.coders import conventional
from vae_core.coders.nested import elements
from vae_core.columns import Codes, ColumnPlan, TableProfile, encode_column, plan_columns

LOOKED_AT = 64  # columns
WORTH_IT = 0.95  # of the bytes of the columns: their previews and reads of single ones are lost
WORTH_COLUMNS, LEAST_ROWS = 0.9, 1_024  # of the bytes of vectors: many columns take long to learn; and rows, as each has a model
CELLS, FEW_ROWS, MOST_ROWS = 1 << 19, 512, 4_096  # of vectors, that are looked at
HOPEFUL = 1.0  # of what pcodec takes, at first
_QUICK = ("pco", "pco-raw")
FEW_VALUES, MOSTLY = 32, 0.8  # flags and categories tell more of each other than of their neighbours: of bytes, those of other columns


def pays(columns: Sequence[pa.Array], vectors: pa.Array) -> bool:
    """Whether the best conventional coding of (n,) vectors takes clearly less than those of some of their elements as columns would, all,
    and most of that is of columns of many values.

    columns : (n,) each, of one type of numbers
    """
    if not len(vectors):
        return False
    some = np.unique(np.linspace(0, len(columns) - 1, min(LOOKED_AT, len(columns))).astype(np.int64))
    n_bytes = {k: _n_bytes(columns[k]) for k in some}
    many = sum(n for k, n in n_bytes.items() if pc.count_distinct(columns[k]).as_py() > min(FEW_VALUES, len(vectors) // 2))
    apart = sum(n_bytes.values())
    return many >= MOSTLY * apart and _n_bytes(vectors) * len(some) < WORTH_IT * apart * len(columns)


def pays_apart(vectors: pa.Array, share: float = 1.0) -> bool:
    """Whether (n,) vectors of numbers, none null, take clearly less element by element than by the best conventional coding of them all.

    share : of the cells that are looked at: there may be other vectors
    """
    if len(vectors) < LEAST_ROWS:
        return False
    few = vectors.slice(0, LEAST_ROWS)  # by pcodec alone: most vectors are of one kind
    plan, codes = _planned(few)
    quick = min((n for name, n in conventional.rank(plan, few, codes, _QUICK)), default=0)
    if elements.bytes_of_some(few, elements.LOOKED_AT // 2) >= HOPEFUL * quick:
        return False
    some = vectors.slice(0, int(min(MOST_ROWS, max(FEW_ROWS, share * CELLS / vectors.type.list_size))))
    return elements.bytes_of_some(some) < WORTH_COLUMNS * _n_bytes(some)


def _planned(array: pa.Array) -> tuple[ColumnPlan, Codes | None]:
    """The plan of a column alone, and its codes."""
    table = pa.table({"values": array})
    profile = TableProfile(table.schema)
    profile.update(table)
    (plan,) = plan_columns(table.schema, profile.finish(), table, {})
    return plan, None if plan.kind == "verbatim" else encode_column(plan, array)


def _n_bytes(array: pa.Array) -> int:
    """Of the best conventional coding of a column, with the levels that its codes need."""
    plan, codes = _planned(array)
    levels = sum(len(blob) for blob in plan.blobs(as_fields=False).values())
    return conventional.rank(plan, array, codes)[0][1] + levels
