"""A batch split into leaves and joined again: what the tests of nested columns and of strips ask of any recipe."""

from __future__ import annotations

import pyarrow as pa

from storage.leaves import Leaves, Recipe
from vae_core.quality import compare


def assert_joins_again(batch: pa.RecordBatch, recipe: Recipe) -> None:
    """Every column comes back, all at once and each by its name, as do the leaves from the schema that an archive states."""
    leaves = Leaves.of(batch.schema, recipe)
    flat = leaves.split(batch)
    assert flat.schema.equals(leaves.schema, check_metadata=True) and len(set(flat.schema.names)) == flat.num_columns
    flat.validate(full=True)
    stored = Leaves.read(pa.ipc.read_schema(pa.BufferReader(flat.schema.serialize())))
    assert stored.recipe == leaves.recipe or stored.is_flat
    joined = stored.join(pa.Table.from_batches([flat]))
    joined.validate(full=True)
    assert joined.schema.equals(batch.schema, check_metadata=True)
    for quality in compare(pa.Table.from_batches([batch]), joined, {}):
        assert quality.mismatches == 0, quality
    for name in batch.schema.names:
        part = stored.project([name])
        alone = part.join(pa.Table.from_batches([flat.select(part.schema.names)]))
        assert repr(alone.column(0).to_pylist()) == repr(joined.column(name).to_pylist())
        assert alone.schema.field(0).equals(batch.schema.field(name), check_metadata=True)
