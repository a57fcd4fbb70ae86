"""Runs of consecutive rows, drawn over a whole dataset."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SourceSample:
    """Some rows of a source, or all of them.

    table : under the source's schema
    runs  : lengths of the runs of consecutive rows it is made of; their sum is table.num_rows
    """

    table: pa.Table
    runs: tuple[int, ...]


def draw_runs(total: int, n_rows: int, run_rows: int, seed: int) -> list[tuple[int, int]]:
    """Ascending, disjoint row ranges [a, b) of about `n_rows` rows in all; 0 < n_rows < total.

    The rows are cut into n_rows // run_rows equal stretches, and one range is drawn from each.
    """
    if not 0 < n_rows < total or run_rows < 1:
        raise ValueError(f"cannot draw {n_rows} of {total} rows in runs of {run_rows}")
    rng = random.Random(seed)
    n_runs = max(1, n_rows // run_rows)
    runs = []
    for i in range(n_runs):
        low, high = total * i // n_runs, total * (i + 1) // n_runs
        length = min(n_rows * (i + 1) // n_runs - n_rows * i // n_runs, high - low)
        start = rng.randint(low, high - length)
        runs.append((start, start + length))
    return runs


def compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows in memory of their own, so that a slice does not keep the batch it was cut from."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()
