"""The codecs latentpack is compared with, each measured in a process of its own so that peak memory is its own.

    python benchmarks/peers.py PEER SOURCE BOUND      prints one JSON object

Every peer gets the same Arrow table and the same bound and must give the table back: bytes are what decoding really
needs, dictionaries and validity included, and the worst error is measured on what came back.
"""

from __future__ import annotations

import importlib.util
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LOSSLESS = "lossless"
SAMPLE_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Packed:
    """A table as a peer stores it: n_bytes, all counted, and the way back."""

    n_bytes: int
    decode: Callable[[], pa.Table]


@dataclass(frozen=True, slots=True)
class Peer:
    """A codec: pack(table, resolved tolerances by column), the module it needs, whether it makes use of a bound."""

    name: str
    note: str
    pack: Callable[[pa.Table, Mapping[str, Any]], Packed]
    needs: str | None = None
    uses_bound: bool = True

    @property
    def available(self) -> bool:
        """Whether the module it needs can be imported."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


def load(source: str) -> pa.Table:
    """A source as one Arrow table, the way latentpack reads it."""
    from storage.sources import open_source

    opened = open_source(source)
    return pa.Table.from_batches(list(opened.batches(None)), schema=opened.schema)


def tolerances(table: pa.Table, bound: str) -> dict[str, Any]:
    """Resolved tolerance by column for a bound: 'lossless', or SPEC for '*=SPEC'."""
    from vae_core.tolerance import parse_tolerances, resolve

    profile = _profile(table)
    asked = parse_tolerances([] if bound == LOSSLESS else [f"*={bound}"], table.schema)
    return {name: resolve(tolerance, profile.columns[name]) for name, tolerance in asked.items()}


def _profile(table: pa.Table) -> Any:
    from vae_core.columns import TableProfile

    profile = TableProfile(table.schema)
    for batch in table.to_batches(max_chunksize=65_536):
        profile.update(batch)
    profile.finish()
    return profile


def _parquet(level: int) -> Callable[[pa.Table, Mapping[str, Any]], Packed]:
    def pack(table: pa.Table, _: Mapping[str, Any]) -> Packed:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", compression_level=level)
        blob = sink.getvalue()
        return Packed(len(blob), lambda: pq.read_table(io.BytesIO(blob)).cast(table.schema))

    return pack


def _conventional(allowed: Callable[[str], bool]) -> Callable[[pa.Table, Mapping[str, Any]], Packed]:
    """Quantise to the bound, then the smallest allowed coding per column; the best of all where none is allowed."""

    def pack(table: pa.Table, bounds: Mapping[str, Any]) -> Packed:
        from storage.parquet import write_latents
        from vae_core.coders import conventional
        from vae_core.columns import plan_columns
        from vae_core.shard import EncodedBlock, EncodedShard, NativeColumn

        plans = plan_columns(table.schema, _profile(table), table.slice(0, SAMPLE_ROWS), bounds)
        natives, arrays, payloads, codings = [], {}, {}, []
        n_bytes = 0
        for plan in plans:
            array = table.column(plan.index)
            coding, codes = _choice(plan, array, allowed)
            piece = conventional.encode(plan, coding, array, codes)
            codings.append(coding)
            n_bytes += _dictionary_bytes(plan, coding) + len(piece.payload or b"")
            if piece.payload is not None:
                payloads[plan.index] = piece.payload
            if piece.native is not None:
                name = f"c{plan.index}"
                natives.append(NativeColumn(name, "coded", conventional.parquet_encoding(coding), plan.name))
                arrays[name] = piece.native
        block = EncodedBlock(table.num_rows, arrays, {})
        blob = write_latents(EncodedShard({}, tuple(natives), (), (block,), ())) if natives else b""

        def decode() -> pa.Table:
            read = pq.read_table(pa.BufferReader(blob)) if blob else None
            columns = []
            for plan, coding in zip(plans, codings, strict=True):
                name = f"c{plan.index}"
                native = pa.concat_arrays(read.column(name).chunks) if read is not None and name in arrays else None
                stored = conventional.Stored(native, payloads.get(plan.index))
                columns.append(conventional.decode(plan, coding, stored, table.num_rows))
            return pa.Table.from_arrays(columns, schema=table.schema)

        return Packed(n_bytes + len(blob), decode)

    return pack


def _choice(plan: Any, array: pa.ChunkedArray, allowed: Callable[[str], bool]) -> tuple[str, Any]:
    """(the smallest allowed coding, the codes): ranked on a sample, the two best measured on everything."""
    from vae_core.coders import conventional
    from vae_core.columns import encode_column

    codes = None if plan.kind == "verbatim" else encode_column(plan, array)
    head = array.slice(0, SAMPLE_ROWS)
    ranked = [coding for coding, _ in conventional.rank(plan, head, None if codes is None else encode_column(plan, head))]
    best = ([coding for coding in ranked if allowed(coding)] or ranked)[:2]
    sizes = {coding: conventional.measure(plan, array, codes, [coding])[1] + _dictionary_bytes(plan, coding) for coding in best}
    return min(sizes, key=lambda coding: sizes[coding]), codes


def _dictionary_bytes(plan: Any, coding: str) -> int:
    """Bytes of the dictionary that codings of codes need beside them; native Parquet columns carry their own."""
    needs_plan = coding.startswith(("codes", "pco", "zstd")) and coding != "pco-raw"
    return sum(len(blob) for blob in plan.blobs().values()) if needs_plan else 0


def _float_codec(compress: Callable[[Any, float], bytes], expand: Callable[[bytes, tuple[int, ...], Any], Any]) -> Any:
    """A codec of float arrays: all-finite float columns and tensors go through it, the rest through Parquet zstd-19."""

    def pack(table: pa.Table, bounds: Mapping[str, Any]) -> Packed:
        packed: dict[int, tuple[bytes, tuple[int, ...], Any]] = {}
        for i, field in enumerate(table.schema):
            values = _dense_floats(table.column(i))
            bound = bounds.get(field.name)
            if values is not None and bound is not None and bound.kind == "absolute" and bound.value > 0:
                packed[i] = (compress(values, bound.value), values.shape, values.dtype)
        rest = [i for i in range(table.num_columns) if i not in packed]
        others = _parquet(19)(table.select(rest), bounds)

        def decode() -> pa.Table:
            plain = others.decode()
            columns: list[Any] = []
            for i, field in enumerate(table.schema):
                if i in packed:
                    columns.append(_as_column(expand(*packed[i]), field))
                else:
                    columns.append(plain.column(rest.index(i)))
            return pa.Table.from_arrays(columns, schema=table.schema)

        return Packed(others.n_bytes + sum(len(blob) + 16 for blob, _, _ in packed.values()), decode)

    return pack


def _dense_floats(column: pa.ChunkedArray) -> Any:
    """(n_rows,) or (n_rows, width) float array, or None when the column is not float or not all finite."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if array.null_count or not len(array):
        return None
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    shape = [len(array)]
    while pa.types.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
    if array.null_count or not (pa.types.is_float32(array.type) or pa.types.is_float64(array.type)):
        return None
    values = array.to_numpy().reshape(shape)
    return values if np.isfinite(values).all() else None


def _as_column(values: Any, field: pa.Field) -> pa.Array:
    storage = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    sizes = []
    inner = storage
    while pa.types.is_fixed_size_list(inner):
        sizes.append(inner.list_size)
        inner = inner.value_type
    array: pa.Array = pa.array(values.reshape(-1), inner)
    for size in reversed(sizes):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return pa.ExtensionArray.from_storage(field.type, array) if isinstance(field.type, pa.BaseExtensionType) else array


def _zfp_compress(values: Any, bound: float) -> bytes:
    import zfpy

    return bytes(zfpy.compress_numpy(np.ascontiguousarray(values), tolerance=bound))


def _zfp_expand(blob: bytes, shape: tuple[int, ...], dtype: Any) -> Any:
    import zfpy

    return zfpy.decompress_numpy(blob)


def _sz_compress(values: Any, bound: float) -> bytes:
    from pysz import sz, szConfig, szErrorBoundMode

    config = szConfig()
    config.errorBoundMode = szErrorBoundMode.ABS
    config.absErrorBound = bound
    blob, _ = sz.compress(np.ascontiguousarray(values), config)
    return bytes(blob)


def _sz_expand(blob: bytes, shape: tuple[int, ...], dtype: Any) -> Any:
    from pysz import sz

    values, _ = sz.decompress(np.frombuffer(blob, np.uint8), dtype, shape)
    return values


PEERS: tuple[Peer, ...] = (
    Peer("parquet-zstd-3", "the raw table", _parquet(3), uses_bound=False),
    Peer("parquet-zstd-19", "the raw table", _parquet(19), uses_bound=False),
    Peer(
        "quantise+parquet-zstd-19",
        "best encoding per column",
        _conventional(lambda c: c.startswith(("parquet", "codes"))),
    ),
    Peer("quantise+pcodec", "level 12; strings by Parquet", _conventional(lambda c: c.startswith("pco"))),
    Peer("best-conventional", "smallest of all of these per column", _conventional(lambda c: True)),
    Peer("sz3", "float columns; the rest Parquet zstd-19", _float_codec(_sz_compress, _sz_expand), needs="pysz"),
    Peer("zfp", "float columns; the rest Parquet zstd-19", _float_codec(_zfp_compress, _zfp_expand), needs="zfpy"),
)


def measure(peer: Peer, source: str, bound: str) -> dict[str, Any]:
    """Pack and unpack a source once; speeds in MB/s of Arrow bytes, the worst error as a share of the tolerance."""
    table = load(source)
    bounds = tolerances(table, bound)
    began = time.perf_counter()
    packed = peer.pack(table, bounds)
    encoded = time.perf_counter()
    decoded = packed.decode()
    finished = time.perf_counter()
    share, violations = compare(table, decoded, bounds if peer.uses_bound else {})
    return {
        "bytes": packed.n_bytes,
        "encode_mb_s": table.nbytes / 1e6 / max(encoded - began, 1e-9),
        "decode_mb_s": table.nbytes / 1e6 / max(finished - encoded, 1e-9),
        "worst_error_share": share,
        "violations": violations,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def compare(raw: pa.Table, decoded: pa.Table, bounds: Mapping[str, Any]) -> tuple[float, int]:
    """(worst error over tolerance, values outside their promise or unequal)."""
    from vae_core import quality
    from vae_core.tolerance import Tolerance

    promised = {name: bounds.get(name, Tolerance("lossless", 0.0)) for name in raw.column_names}
    worst, violations = 0.0, 0
    for column in quality.compare(raw, decoded, promised):
        bound = promised[column.name]
        violations += column.violations + column.mismatches
        if bound.kind == "absolute" and bound.value > 0:
            worst = max(worst, column.max_abs_error / bound.value)
    return worst, violations


def main(argv: Sequence[str]) -> int:
    """Measure one peer; print JSON."""
    name, source, bound = argv
    peer = next(p for p in PEERS if p.name == name)
    json.dump(measure(peer, source, bound), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
