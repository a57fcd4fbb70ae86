"""What columnar formats do: Parquet as it is, and quantised columns in the best of the codings allowed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.codecs.container import pack, pack_plans, unpack, unpack_plans
from benchmarks.codecs.dataset import profile_of
from benchmarks.codecs.shape import Bounds, Effort
from storage.parquet import write_latents
from vae_core.coders import conventional
from vae_core.columns import Codes, ColumnPlan, encode_column, plan_columns
from vae_core.shard import EncodedBlock, EncodedShard, NativeColumn

SAMPLE_ROWS = 65_536

Allowed = Callable[[str], bool]


def any_coding(_: str) -> bool:
    """Every coding may be chosen."""
    return True


def plans_of(table: pa.Table, bounds: Bounds) -> tuple[ColumnPlan, ...]:
    """The product's own column plans, so that every codec stands on the same quantised integers."""
    return plan_columns(table.schema, profile_of(table), table.slice(0, SAMPLE_ROWS), bounds)


def parquet_encoder(level: int) -> Callable[[pa.Table, Bounds, Effort], bytes]:
    """The raw table as one Parquet file, zstd at a level, everything else as pyarrow likes it."""

    def encode(table: pa.Table, _: Bounds, __: Effort) -> bytes:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", compression_level=level)
        return sink.getvalue()

    return encode


def parquet_decode(data: bytes) -> pa.Table:
    """The inverse of `parquet_encoder`; the schema is the one Arrow keeps in the file."""
    table = pq.read_table(pa.BufferReader(data))
    head = pq.ParquetFile(pa.BufferReader(data)).schema_arrow
    return table if table.schema == head else table.cast(head)


def conventional_encoder(allowed: Allowed) -> Callable[[pa.Table, Bounds, Effort], bytes]:
    """Quantise to the bound, then the smallest allowed coding per column; the best of all where none is allowed."""

    def encode(table: pa.Table, bounds: Bounds, _: Effort) -> bytes:
        plans = plans_of(table, bounds)
        body, needed = encode_columns(table, plans, allowed)
        return pack([pack_plans(table.schema, plans, table.num_rows, needed), body])

    return encode


def conventional_decode(data: bytes) -> pa.Table:
    """The inverse of `conventional_encoder`."""
    head, body = unpack(data)
    schema, plans, n_rows = unpack_plans(head)
    arrays = decode_columns(body, {plan.index: plan for plan in plans}, n_rows)
    return pa.Table.from_arrays([arrays[i] for i in range(len(schema))], schema=schema)


def encode_columns(table: pa.Table, plans: Sequence[ColumnPlan], allowed: Allowed = any_coding) -> tuple[bytes, set[int]]:
    """Some columns of a table conventionally: (payload, columns whose plan decoding needs whole)."""
    natives, arrays, payloads, codings = [], {}, [], {}
    for plan in plans:
        array = table.column(plan.index)
        coding, codes = _choice(plan, array, allowed)
        piece = conventional.encode(plan, coding, array, codes)
        codings[plan.index] = coding
        payloads.append(b"" if piece.payload is None else piece.payload)
        if piece.native is not None:
            name = f"c{plan.index}"
            natives.append(NativeColumn(name, "coded", conventional.parquet_encoding(coding), plan.name))
            arrays[name] = piece.native
    block = EncodedBlock(table.num_rows, arrays, {})
    parquet = write_latents(EncodedShard({}, tuple(natives), (), (block,), ())) if natives else b""
    needed = {plan.index for plan in plans if not codings[plan.index].startswith(("parquet-", "ipc"))}
    return pack([json.dumps(codings, separators=(",", ":")).encode(), parquet, *payloads]), needed


def decode_columns(data: bytes, plans: Mapping[int, ColumnPlan], n_rows: int) -> dict[int, pa.Array]:
    """The inverse of `encode_columns`: column index -> array."""
    text, parquet, *payloads = unpack(data)
    codings = {int(index): coding for index, coding in json.loads(text).items()}
    read = pq.read_table(pa.BufferReader(parquet)) if parquet else None
    found = {}
    for (index, coding), payload in zip(codings.items(), payloads, strict=True):
        name = f"c{index}"
        has_native = read is not None and name in read.column_names
        native = pa.concat_arrays(read.column(name).chunks) if read is not None and has_native else None
        found[index] = conventional.decode(plans[index], coding, conventional.Stored(native, payload or None), n_rows)
    return found


def _choice(plan: ColumnPlan, array: pa.ChunkedArray, allowed: Allowed) -> tuple[str, Codes | None]:
    """(the smallest allowed coding, the codes): ranked on a sample, the two best measured on everything."""
    codes = None if plan.kind == "verbatim" else encode_column(plan, array)
    head = array.slice(0, SAMPLE_ROWS)
    ranked = [coding for coding, _ in conventional.rank(plan, head, None if codes is None else encode_column(plan, head))]
    best = ([coding for coding in ranked if allowed(coding)] or ranked)[:2]
    sizes = {
        coding: conventional.measure(plan, array, codes, [coding])[1] + conventional.dictionary_bytes(plan, coding) for coding in best
    }
    return min(sizes, key=lambda coding: sizes[coding]), codes


def rest_of(plans: Sequence[ColumnPlan], taken: Collection[int]) -> list[ColumnPlan]:
    """The plans of the columns a codec leaves to the conventional ones."""
    return [plan for plan in plans if plan.index not in taken]
