"""Blocks of one shard that differ: each is narrow in its own way, and the shard's files have one type a column."""

import numpy as np
import pyarrow as pa
import pytest

from vae_core.columns import TableProfile
from vae_core.encoding import even_spans
from vae_core.entropy import kernel
from vae_core.errors import CorruptArchive
from vae_core.fitting import fit
from vae_core.model import FitConfig, Sample
from vae_core.shard import blocks_at_once, decode_block, decode_blocks, encode_shard


def test_blocks_of_different_ranges_share_one_native_type() -> None:
    rng = np.random.default_rng(3)
    n = 3000
    noise = [rng.integers(0, 100, n), rng.integers(-100, 0, n), rng.integers(0, 60_000, n), rng.integers(-(2**40), 2**40, n)]
    table = pa.table({"x": np.concatenate(noise), "constant": np.zeros(4 * n, np.int64)})
    profile = TableProfile(table.schema)
    profile.update(table)
    profile.finish()
    model = fit(Sample(table, (4 * n,)), profile, table.schema, {}, FitConfig(time_budget_s=5, preview="off")).model
    shard = encode_shard(model, table, block_rows=n)
    assert len(shard.blocks) == 4
    for native in shard.natives:
        assert len({block.natives[native.name].type for block in shard.blocks}) == 1
    decoded = [decode_block(model, shard.layout, b.n_rows, b.natives, b.payloads) for b in shard.blocks]
    assert pa.concat_tables(decoded).combine_chunks().equals(table.combine_chunks(), check_metadata=True)


def test_blocks_are_of_even_size_and_tile_the_rows() -> None:
    for n_rows, block_rows in ((0, 10), (1, 10), (14, 10), (15, 10), (138_004, 131_072), (1_000_000, 131_072)):
        spans = even_spans(n_rows, block_rows)
        assert sum(n for _, n in spans) == n_rows
        assert all(n <= 1.5 * block_rows for _, n in spans)
        assert not spans or max(n for _, n in spans) - min(n for _, n in spans) <= 1


def test_blocks_decoded_together_without_the_kernel_are_those_decoded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    n, level = 2000, rng.integers(-3, 4, 6000).cumsum()
    told = pa.array(level % 17, mask=np.arange(6000) < 1500)  # the second block has no state but that of a value
    table = pa.table({"level": level, "told": told, "noise": rng.integers(0, 5, 6000) + level // 8})
    profile = TableProfile(table.schema)
    profile.update(table)
    profile.finish()
    model = fit(Sample(table, (6000,)), profile, table.schema, {}, FitConfig(time_budget_s=5, preview="off")).model
    shard = encode_shard(model, table, block_rows=n)
    assert shard.layout["streams"] and len(shard.blocks) == 3 and blocks_at_once(model, n) == 1
    parts = [[getattr(block, name) for block in shard.blocks] for name in ("n_rows", "natives", "payloads")]
    fast = list(decode_blocks(model, shard.layout, *parts))
    monkeypatch.setattr(kernel, "library", lambda: None)
    assert blocks_at_once(model, n) > 3 and blocks_at_once(model, 1 << 22) == 1
    assert list(decode_blocks(model, shard.layout, *parts)) == fast
    assert list(decode_blocks(model, shard.layout, *parts, ["told"])) == [block.select(["told"]) for block in fast]
    assert pa.concat_tables(fast).combine_chunks().equals(table.combine_chunks(), check_metadata=True)
    parts[2][1] = {name: payload[:-9] for name, payload in parts[2][1].items()}
    with pytest.raises(CorruptArchive):
        list(decode_blocks(model, shard.layout, *parts))
