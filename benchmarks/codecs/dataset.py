"""A dataset of the benchmark: its table, the tolerances a bound asks for, what it weighs as CSV."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.csv

from benchmarks.codecs.shape import LOSSLESS
from storage.sources import open_source
from vae_core.columns import TableProfile
from vae_core.tolerance import Tolerance, parse_tolerances, resolve, value_type_of

NUMERIC = "numeric:"
"""'numeric:5%' is a bound for every column of numbers, integers too (DeepSqueeze's setting); '5%' is one for floats."""
BATCH_ROWS = 65_536


def load(source: str) -> pa.Table:
    """A source as one Arrow table, the way latentpack reads it."""
    with open_source(source, recipe=None) as opened:
        return pa.Table.from_batches(list(opened.batches(None)), schema=opened.schema)


def profile_of(table: pa.Table) -> TableProfile:
    """What plans and relative tolerances are drawn from: a pass over all rows."""
    profile = TableProfile(table.schema)
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        profile.update(batch)
    profile.finish()
    return profile


def specs(schema: pa.Schema, bound: str) -> list[str]:
    """The `--tolerance` options a bound stands for."""
    if bound == LOSSLESS:
        return []
    if not bound.startswith(NUMERIC):
        return [f"*={bound}"]
    return [f"{item.name}={bound.removeprefix(NUMERIC)}" for item in schema if _is_number(item.type)]


def tolerances(table: pa.Table, bound: str) -> dict[str, Tolerance]:
    """Resolved tolerance by column: absolute, in the column's units."""
    asked = parse_tolerances(specs(table.schema, bound), table.schema)
    if not asked:
        return {}
    profile = profile_of(table)
    return {name: resolve(tolerance, profile.columns[name]) for name, tolerance in asked.items()}


def says_something(schema: pa.Schema, bound: str) -> bool:
    """False when a bound names no column of the schema, so that it is lossless under another name."""
    return bound == LOSSLESS or bool(parse_tolerances(specs(schema, bound), schema))


def n_cells(table: pa.Table) -> int:
    """Values: rows times columns, a fixed-size list counting each of its elements."""
    return sum(table.num_rows * _width(item.type) for item in table.schema)


def csv_bytes(table: pa.Table) -> int | None:
    """Bytes of the table as pyarrow writes CSV; None when it holds what CSV cannot."""
    sink = _Counter()
    try:
        pyarrow.csv.write_csv(table, pa.PythonFile(sink, mode="w"))
    except pa.ArrowException:  # nested values and tensors: there is no percentage of a CSV that cannot be
        return None
    return sink.n_bytes


class _Counter:
    """A file that only counts."""

    closed = False

    def __init__(self) -> None:
        self.n_bytes = 0

    def write(self, data: Any) -> int:
        self.n_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _is_number(kind: pa.DataType) -> bool:
    value = value_type_of(kind)
    return bool(pa.types.is_floating(value) or pa.types.is_integer(value))


def _width(kind: pa.DataType) -> int:
    width = 1
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_fixed_size_list(kind):
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            width, kind = width * kind.list_size, kind.value_type
    return width
