"""A small table of telemetry, and the steps from a table to a shard and back that every codec test takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from vae_core import fitting
from vae_core.base import search
from vae_core.columns import TableProfile
from vae_core.model import FitConfig, FitResult, Model, Sample
from vae_core.quality import compare
from vae_core.shard import EncodedShard, decode_block, needs
from vae_core.tolerance import LOSSLESS, Tolerance, parse_tolerances, resolve

SENSORS = ("s0", "s1", "s2", "s3", "s4", "s5")


def telemetry(n_rows: int, seed: int) -> pa.Table:
    """Correlated columns of most kinds: keys, codes, clocks, decimals, ties, nulls, specials, noise, text, six linked sensors."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_rows)
    site = rng.integers(0, 6, n_rows)
    gone = rng.random(n_rows) < 0.05
    start = (t // 3) % 1440
    length = 20 + site * 7 + rng.integers(0, 4, n_rows)
    noise = rng.normal(size=n_rows)
    noise[rng.random(n_rows) < 0.02] = np.nan
    noise[:4] = [np.inf, -np.inf, -0.0, 5e-324]
    waves = np.stack([np.sin(t / 37), np.cos(t / 11)], 1) @ np.random.default_rng(9).normal(size=(2, len(SENSORS)))
    waves += 0.02 * rng.normal(size=waves.shape)
    columns: dict[str, pa.Array] = {
        "site": pa.array([f"site-{s}" for s in site]),
        "unit": pa.array([f"u{s % 3}" if s else None for s in site]).dictionary_encode(),
        "departs": pa.array(start // 60 * 100 + start % 60),
        "arrives": pa.array((start + length) // 60 * 100 + (start + length) % 60, mask=gone),
        "minutes": pa.array(length.astype(np.int16), mask=gone),
        "at": pa.array((1_700_000_000 + 60 * t) * 1_000_000, pa.timestamp("us", "UTC")),
        "temp": pa.array(np.round(20 + 5 * np.sin(t / 200) + site, 2)),
        "load": pa.array(50 + 30 * np.sin(t / 90) + rng.normal(size=n_rows)),
        "noise": pa.array(noise),
        "flag": pa.array((site > 2) ^ (rng.random(n_rows) < 0.01)),
        "note": pa.array([None if k % 7 else f"row {k * 7919 % 10007} {'x' * (k % 5)}" for k in range(n_rows)]),
        "tags": pa.array([[int(s)] * (s % 3) for s in site], pa.list_(pa.int8())),
        "constant": pa.array(np.full(n_rows, 7, np.int64)),
        "void": pa.nulls(n_rows, pa.float32()),
    }
    columns |= {name: pa.array(waves[:, k].astype(np.float32)) for k, name in enumerate(SENSORS)}
    columns["s5"] = pa.array(np.where(np.arange(n_rows) % 97 == 5, np.nan, columns["s5"].to_numpy()), mask=t % 50 == 7)
    return pa.table(columns).replace_schema_metadata({"made": "by a test"})


def profiled(table: pa.Table) -> TableProfile:
    """The profile of a whole table."""
    profile = TableProfile(table.schema)
    for batch in table.to_batches():
        profile.update(batch)
    return profile.finish()


def resolved(table: pa.Table, tolerances: Sequence[str] | Mapping[str, Tolerance]) -> dict[str, Tolerance]:
    """Tolerances as on the command line, or one for each of some columns, in column units."""
    asked = tolerances if isinstance(tolerances, Mapping) else parse_tolerances(tolerances, table.schema)
    profile = profiled(table)
    return {name: resolve(tolerance, profile.columns[name]) for name, tolerance in asked.items()}


def fitted(
    table: pa.Table,
    tolerances: Sequence[str] | Mapping[str, Tolerance] = (),
    *,
    preview: str | float = "off",
    seconds: float = 1,
    seed: int = 0,
) -> FitResult:
    """A model of a table, fitted on all of it.

    `seconds` plan the steps of training; all else has the time it wants, so that no clock decides.
    One thread: on a busy machine two of them wait for each other at every step.
    """
    import torch

    config = FitConfig(seed=seed, time_budget_s=seconds, preview=preview)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "EXACT_SHARE", 1000.0)
        patch.setattr(search, "GRACE_S", 1000.0)
        return fitting.fit(Sample(table, (table.num_rows,)), profiled(table), table.schema, resolved(table, tolerances), config)


def decoded(model: Model, shard: EncodedShard, columns: Sequence[str] | None = None, preview: bool = False) -> pa.Table:
    """A shard back as a table, from nothing but what `needs` asks for."""
    wanted = needs(model, shard.layout, columns, preview)
    tables = [
        decode_block(
            model, shard.layout, block.n_rows, {k: block.natives[k] for k in wanted.natives}, {k: block.payloads[k] for k in wanted.groups},
            columns, preview,
        )
        for block in shard.blocks
    ]  # fmt: skip
    return pa.concat_tables(tables) if tables else without_rows(model.schema)


def without_rows(schema: pa.Schema) -> pa.Table:
    """An empty table; Arrow's own empty_table knows no unions."""
    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def assert_kept(raw: pa.Table, back: pa.Table, promised: Mapping[str, Tolerance] | None = None) -> None:
    """Raise AssertionError unless every column of `back` keeps its promise (resolved; lossless where none) about `raw`."""
    assert back.schema.equals(raw.schema, check_metadata=True) and back.num_rows == raw.num_rows
    back.validate()
    for quality in compare(raw, back, promised or {}):
        assert quality.keeps((promised or {}).get(quality.name, LOSSLESS)), quality


def stored_again(model: Model) -> Model:
    """A model as reading an archive has it: from its files, without the encoder."""
    return Model.from_files({name: data for name, data in model.to_files().items() if not name.startswith("encoder")})

