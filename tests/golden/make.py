"""Write the golden archives of the format version this release writes: `python tests/golden/make.py`, or those named behind it.

Run by hand, when a format version is new and before it is released; never by a test. Archives of older versions stay as they are:
every release reads them for ever. Each case is a folder with `archive/`, what it decodes to in `expected.arrow`, and, where the
archive has a preview, what that decodes to in `preview.arrow`.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from telemetry import SENSORS, assert_kept, fitted, resolved, telemetry  # noqa: E402

from storage import open_archive  # noqa: E402
from storage.archive import Archive  # noqa: E402
from storage.entries import Proof, ShardRef, SourceRecord  # noqa: E402
from storage.leaves import WHOLE, Leaves, Recipe, find_recipe  # noqa: E402
from storage.manifest import Manifest  # noqa: E402
from storage.objects import ObjectStore  # noqa: E402
from storage.snapshots import newest_manifest  # noqa: E402
from storage.version import FORMAT_VERSION  # noqa: E402
from storage.writer import commit, stage_model, stage_shard  # noqa: E402
from vae_core import choosing, encoding, fitting, layers, packed_nested, packed_texts, picking, streams, tensor_fitting  # noqa: E402
from vae_core.base import fit_base  # noqa: E402
from vae_core.base.search import BaseFit  # noqa: E402
from vae_core.coders import conventional, texts  # noqa: E402
from vae_core.coders.fields import columns as field_columns  # noqa: E402
from vae_core.entropy import gathered as packing  # noqa: E402
from vae_core.entropy.rans import Encoder  # noqa: E402
from vae_core.exact.cells import Recall  # noqa: E402
from vae_core.exact.counts import MAX_CELLS, n_contexts  # noqa: E402
from vae_core.exact.digits import Digits, Direct, Residual  # noqa: E402
from vae_core.exact.features import (  # noqa: E402
    ABOVE_KINDS,
    COLUMN_KINDS,
    FIXED_SIZES,
    MIXED_KINDS,
    N_STATES,
    NOISE_LEVELS,
    OWN_KINDS,
    Feature,
)
from vae_core.exact.linear import Linear, Mixed, Simple, Term  # noqa: E402
from vae_core.exact.matches import Match  # noqa: E402
from vae_core.exact.plans import FLAGS, MAX_FEATURES, CellPlan, ColumnCode, DigitPlan  # noqa: E402
from vae_core.exact.schedule import LAST_CHUNKS, LONG_STRETCHES, PARTS, SHORT_STRETCHES, Chunks  # noqa: E402
from vae_core.model import Model  # noqa: E402
from vae_core.shard import encode_shard  # noqa: E402

MOST_BYTES = 60_000
ONLY = frozenset(sys.argv[1:])  # cases to write; none: all


def every_type(n: int) -> pa.Table:
    """Columns of every Arrow type there is a rule for, with nulls, specials and the ends of their ranges."""
    rng = np.random.default_rng(11)
    k = rng.integers(0, 5, n)
    gone = rng.random(n) < 0.1
    wild = np.where(k == 0, rng.choice([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e308], n), np.round(rng.normal(size=n), 2))

    def ints(kind: pa.DataType) -> pa.Array:
        info = np.iinfo(kind.to_pandas_dtype())
        near = k.astype(info.dtype)
        near[:2] = info.min, info.max
        return pa.array(near, kind, mask=gone)

    def ticks(kind: pa.DataType, step: int) -> pa.Array:
        return pa.array(k * step, pa.int32() if kind.bit_width == 32 else pa.int64(), mask=gone).view(kind)

    columns: dict[str, pa.Array] = {str(kind): ints(kind) for kind in (
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    )}  # fmt: skip
    columns |= {
        "bool": pa.array(k > 2, mask=gone),
        "double": pa.array(wild, mask=gone),
        "float": pa.array(np.where(np.abs(wild) > 1e30, 2.5, wild).astype(np.float32), mask=gone),
        "halffloat": pa.array(np.where(np.abs(wild) > 1e4, 2.5, wild).astype(np.float16)),
        "float bits": pa.array(rng.normal(size=n)),
        "numbered": pa.array([f"N-{17 + i // 200}/{rng.integers(0, 10**5):05d}" if i % 97 else "none" for i in range(n)], mask=gone),
        "singles": pa.array(rng.normal(size=n).astype(np.float32).astype(np.float64)),
        "levels": pa.array(np.array([0.1234567891, 2 / 3, -1e9, 7e-5, 3.0])[k]),
        "far levels": pa.array(np.array([-(2**60), 3, 7, 2**61, 2**62 + 1])[k]),
        "date": ticks(pa.date32(), 7),
        "date64": ticks(pa.date64(), 86_400_000),
        "time": ticks(pa.time32("s"), 60),
        "time64": ticks(pa.time64("ns"), 1_000),
        "instant": ticks(pa.timestamp("us", "America/New_York"), 1_000_000),
        "duration": ticks(pa.duration("ms"), 5),
        "decimal": pa.array([Decimal(int(v)) / 100 for v in k], pa.decimal128(9, 2)),
        "decimal256": pa.array([Decimal(int(v)).scaleb(-10) for v in k], pa.decimal256(60, 10)),
        "string": pa.array([None if g else f"name {v}" for v, g in zip(k, gone, strict=True)]),
        "free text": pa.array([f"{v} {rng.integers(1 << 30)}" for v in k]),
        "large_string": pa.array([f"v{v}" for v in k], pa.large_string()),
        "string_view": pa.array([f"v{v}" for v in k], pa.string_view()),
        "binary": pa.array([bytes([v]) * int(v) for v in k]),
        "fixed binary": pa.array([bytes([v]) * 3 for v in k], pa.binary(3)),
        "dictionary": pa.DictionaryArray.from_arrays(pa.array(k, pa.int8(), mask=gone), pa.array(["e", "d", "c", "b", "a"]), ordered=True),
        "list": pa.array([None if g else [float(v)] * int(v) for v, g in zip(k, gone, strict=True)]),
        "struct": pa.array([{"x": int(v), "s": str(v)} for v in k]),
        "map": pa.array([[("a", int(v))] for v in k], pa.map_(pa.string(), pa.int64())),
        "interval": pa.array([pa.MonthDayNano([int(v), 1, 2]) for v in k]),
        "null": pa.nulls(n),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([v]) * 16 for v in k], pa.binary(16))),
        "fixed list": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(k, 3).astype(np.int32)), 3),
        "constant": pa.array(["same"] * n),
        "day": pa.array([dt.date(2024, 1, 1) + dt.timedelta(days=int(v)) for v in k]),
    }
    tensor = pa.fixed_shape_tensor(pa.uint8(), (2, 2))
    cells = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(k, 4).astype(np.uint8)), 4)
    columns["tensor"] = pa.ExtensionArray.from_storage(tensor, cells)
    fields = [pa.field(name, array.type, metadata={"of": name}) for name, array in columns.items()]
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields, metadata={"made": "by hand"}))


def every_coding(n: int) -> tuple[pa.Table, list[str], Callable[..., list[tuple[str, int]]]]:
    """A column for every conventional coding, named after it, its tolerances, and a ranking that lets it win."""
    rng = np.random.default_rng(12)
    walk = np.round(rng.normal(size=n).cumsum(), 3)
    columns: dict[str, pa.Array] = {}
    for name in (coding for coding in conventional.CODINGS if coding not in ("lattices", "elements")):
        columns[name] = pa.array(walk + len(columns), mask=rng.random(n) < 0.05)
    columns["zstd"] = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(np.round(walk), 3)), 3)
    columns["ipc"] = pa.array([[f"{v}"] for v in walk])
    words = np.array(["late", "on time", "cancelled", "diverted to", "gate", "naïve", "\n"])
    columns["texts"] = pa.array([f"{' '.join(rng.choice(words, 9))} {k}" for k in range(n)], mask=rng.random(n) < 0.1)
    columns["fields"] = pa.array([f"{v:.1f} of {k}" for k, v in enumerate(walk)])
    columns["nested"] = pa.array([[f"{v:.1f}", str(k)] for k, v in enumerate(walk)])
    columns["pco-raw"] = pa.array(rng.normal(size=n))
    columns["pco special"] = pa.array(np.where(rng.random(n) < 0.2, rng.choice([np.nan, np.inf, -0.0, 1e300], n), walk))
    asked = [f"{name}=0.01" for name in columns if name.startswith("codes-") or name == "pco"]

    def ranking(plan: Any, array: Any, codes: Any) -> list[tuple[str, int]]:
        return [(plan.name.partition(" ")[0], 0)]

    return pa.table(columns), asked, ranking


def prose(n: int) -> pa.Table:
    """Remarks that are told by words before them, some null or empty, and words of a dictionary."""
    rng = np.random.default_rng(22)
    subjects = ["the gate", "a crew", "Zoë's inbound flight", "baggage", "the tower"]
    verbs = ["closed", "waits", "opened", "was late", "is away"]
    causes, ends = ["by fog", "for the captain", "since 9:40", "after the storm", "again"], [".", "!", "; see below", ""]

    def remark(k: int) -> str | None:
        parts = [rng.choice(some) for some in (subjects, verbs, causes) * int(rng.integers(1, 4))]
        return None if k % 41 == 5 else "" if k % 53 == 2 else " ".join(parts).capitalize() + rng.choice(ends)

    titles = sorted({f"{a.title()} {b} {c} ({y})" for a in subjects for b in verbs for c in causes for y in (1984, 1999)})
    named = pa.array(rng.choice(titles, n)).dictionary_encode()
    return pa.table({"note": pa.array([remark(k) for k in range(n)]), "title": named, "n": pa.array(np.arange(n) % 7)})


def wide(n: int) -> pa.Table:
    """Columns alike, some of another kind among them, of bounds that bins follow from, and of one that rounding leaves no room for."""
    rng = np.random.default_rng(21)
    floats = {f"f{k:02}": pa.array(rng.normal(0, 10.0 ** rng.uniform(-3, 6), n)) for k in range(40)}
    coarse = pa.array((1e9 + rng.normal(0, 3000, n)).astype("f4"))
    columns = {**floats, "coarse": coarse, "who": pa.array(rng.choice(["ann", "bob", "zoë"], n)), "n": pa.array(rng.integers(0, 9, n))}
    table = pa.table(dict(sorted(columns.items(), key=lambda item: item[0][::-1])))
    told = [item.with_metadata({"unit": "V"}) if item.name in ("f01", "f11", "n") else item for item in table.schema]
    return table.cast(pa.schema(told, metadata={"made": "for a golden archive"}))


def by_elements(n: int) -> pa.Table:
    """Vectors of every kind of number, with nulls and elements that are, and with what is no number."""
    rng = np.random.default_rng(20)
    walk = rng.integers(-9, 10, (n, 6)).cumsum(axis=0) * [1, 1, 50, 700, 0, 10**9] + [0, 0, 7, 0, 5, 10**12]
    odd = np.where(rng.random((n, 6)) < 0.04, rng.choice([np.nan, np.inf, -0.0, 1e300, 1 / 3], (n, 6)), walk / [1, 10, 8, 1000, 4, 7])

    def vectors(cells: pa.Array, gone: float = 0.0) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(cells, 6, mask=pa.array(rng.random(n) < gone) if gone else None)

    holes = pa.array(walk.ravel(), mask=rng.random(6 * n) < 0.1)
    tensor = pa.fixed_shape_tensor(pa.int16(), (6,))
    return pa.table({
        "integers": vectors(pa.array(walk.ravel())),
        "holes": vectors(holes),
        "gone": vectors(pa.array(walk.ravel()), 0.2),
        "nothing": pa.nulls(n, pa.list_(pa.int32(), 6)),
        "far": vectors(pa.array(walk.ravel().astype(np.uint64) + np.uint64(2**63))),
        "floats": vectors(pa.array(odd.ravel())),
        "singles": vectors(pa.array((walk / 8).astype(np.float32).ravel(), mask=rng.random(6 * n) < 0.1), 0.1),
        "halves": vectors(pa.array((walk % 90).astype(np.float16).ravel())),
        "tensor": pa.ExtensionArray.from_storage(tensor, vectors(pa.array((walk % 700).astype(np.int16).ravel()))),
    })  # fmt: skip


def every_lattice(n: int) -> pa.Table:
    """Columns on lattices of hidden steps: with nulls, with rows off them, rounded to significant digits, and a stretch of noise."""
    rng = np.random.default_rng(16)
    k = np.round(2000 + 900 * np.sin(np.arange(n) / 25) + rng.normal(size=n) * 60).astype(np.int64)
    step = np.where(np.arange(n) < n // 3, 3.0379747, 2.718281828)
    off = rng.random(n) < 0.03
    wide = rng.integers(0, 90_000, n)
    blurred = np.round(k * 7.7719 + rng.normal(size=n) * 0.00022, 3)
    return pa.table({
        "nulls": pa.array(np.round(k * step, 5), mask=rng.random(n) < 0.1),
        "off": pa.array(np.round(np.where(off, rng.random(n) * 5000, k * step), 5)),
        "blurred": pa.array(blurred),
        "digits": pa.array([float(f"{v:.7g}") for v in k * 6.2137119]),
        "noise": pa.array(np.where(np.arange(n) % 700 < 350, np.rint(k * 12345.678), rng.integers(0, 10**8, n)).astype(np.int64)),
        "standardised": pa.array((wide - wide.mean()) / wide.std()),
        "singles": pa.array((wide * 0.45359237 - 700).astype(np.float32)),
        "negative": pa.array(np.rint((k - 2000) * 617.283).astype(np.int64) - 10**14),
    })  # fmt: skip


def every_field(n: int) -> pa.Table:
    """Texts that are templates and fields in every way there is, and a dictionary of such."""
    rng = np.random.default_rng(22)
    keys = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n // 8)]
    addresses = [".".join(map(str, rng.integers(1, 255, 4))) for _ in range(n // 20)]
    where = rng.choice(addresses, n)
    far = rng.integers(10**15, 10**17, 20)
    names = ["ann", "bob", "eve", "josé"]
    lines: list[str | None] = []
    for k, kind in enumerate(rng.integers(0, 7, n)):
        lines.append([
            f"{k:05d} [{where[k]}] took {rng.gamma(2, 9):.2f}ms",
            f"{k:05d} [{where[k]}] took -{rng.gamma(2, 9):.2f}ms by {rng.choice(names)}{rng.integers(0, 99)}",
            f"{k:05d} [{where[k]}] 0x{rng.integers(2**34, 2**40):X} {', '.join(rng.choice(names, 3))}: 7",
            f"{k:05d} nothing" + " at all" * int(rng.integers(0, 5)),
            f"{k:05d} {float(rng.integers(-99, 99)) / 8!r} {rng.integers(-999, 999) / 100:.3g}",
            f"{k:05d} {rng.bytes(10).hex()}",
            None,
        ][kind])  # fmt: skip
    noise = [bytes(range(k % 256, 256)) + b" %d" % rng.integers(0, 10**6) + bytes(range(k % 256)) for k in range(n)]
    return pa.table({
        "line": pa.array(lines),
        "id": pa.array([str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(n)], pa.large_string()),
        "view": pa.array([f"{a:.4f},{b:.4f}" for a, b in rng.normal(48, 0.1, (n, 2))], pa.string_view()),
        "account": pa.array([f"{a}-{b}/{c}" for a, b, c in zip(*rng.choice(far, (2, n)), rng.integers(0, 2**28, n), strict=True)]),
        "bytes": pa.array([row[:12] if k % 20 else row for k, row in enumerate(noise)], pa.binary()),
        "key": pa.array(rng.choice(keys, n)),
    })  # fmt: skip


def shares(n: int) -> pa.Table:
    """Quotients of small numbers, cut off after 15 decimals, and a few numbers that are none."""
    rng = np.random.default_rng(29)
    levels = [int(p * 10**15 // q) / 10**15 for p in range(-9, 40) for q in range(1, 19)]
    levels = [*levels, 0.1234567890123, 0.12345678901234, 5.43210987654321]
    return pa.table({"share": pa.array(np.array(levels)[rng.permutation(np.arange(n) % len(levels))])})


def every_list(n: int) -> pa.Table:
    """Lists, maps and structs that are columns in every way there is, and a dictionary of such."""
    rng = np.random.default_rng(23)
    lengths = rng.integers(0, 5, n)
    which, kinds, sets = rng.integers(0, 12, lengths.sum()), ["click", "key", "scroll"], [[], ["a"], ["b", "c", "a"], ["naïve"]]
    at = np.datetime64("2025-01-01T00:00:00", "ms") + np.cumsum(rng.integers(500, 90_000, len(which)))
    prices = [float(v) for v in np.round(rng.gamma(2, 9, 12), 2)]
    prices[7] = math.nan
    said = [{0: f"at {rng.integers(0, 999)},{rng.integers(0, 999)}", 1: rng.bytes(3).hex(), 2: None}[int(w) % 3] for w in which]
    item = pa.StructArray.from_arrays(
        [
            pa.array(at), pa.array(at + rng.integers(0, 400, len(at))), pa.array([kinds[w % 3] for w in which]),
            pa.array([f"article {w:03d}" for w in which], pa.large_string()), pa.array([prices[w] for w in which], pa.float32()),
            pa.array(said), pa.array([sets[v] for v in rng.integers(0, 4, len(at))]), pa.array(which % 2 == 0),
            pa.array([rng.bytes(4) for _ in which], pa.binary(4)), pa.array(rng.normal(size=len(at)), mask=rng.random(len(at)) < 0.1),
            pa.array([Decimal(int(w)).scaleb(-2) if w else Decimal(10) ** 20 for w in which], pa.decimal128(30, 2)),
        ],
        ["at", "end", "kind", "name", "price", "said", "tags", "sure", "id", "noise", "sum"],
    )  # fmt: skip
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    few = [[{"n": k, "of": [k % 3, 1]} for k in range(v)] for v in range(9)]
    bits = [[float(v) for v in rng.normal(size=k % 4) * 10.0 ** rng.integers(-200, 200)] for k in range(n)]
    walks = [np.round(rng.normal(20, 99) + rng.normal(0, 0.1, k % 9).cumsum(), 2) for k in range(n)]
    rounded = [[math.inf if k % 90 == 9 and not j else float(v) for j, v in enumerate(walk)] for k, walk in enumerate(walks)]
    maps = [[("id", str(rng.integers(10**6))), ("took", f"{rng.gamma(2, 9):.1f}"), ("user", "ann")][: 1 + k % 3] for k in range(n)]
    maps = [None if k % 40 == 7 else row for k, row in enumerate(maps)]
    counts = [list({str(v): int(v) for v in rng.choice(300, 2)}.items()) for _ in range(n)]
    return pa.table({
        "events": pa.ListArray.from_arrays(offsets, item, mask=pa.array(rng.random(n) < 0.05)),
        "map": pa.array(maps, pa.map_(pa.string(), pa.string())), "counts": pa.array(counts, pa.map_(pa.string(), pa.uint16())),
        "rounded": pa.array(rounded, pa.large_list(pa.float64())), "bits": pa.array(bits),
        "boxes": pa.array([[[int(v), int(v) + 9] for v in rng.integers(0, 99, k % 3)] for k in range(n)], pa.list_(pa.list_(pa.int8(), 2))),
        "pairs": pa.array([[{"k": kinds[v % 3], "v": int(k) * 7919 % 1009 + v} for v in range(k % 4)] for k in rng.permutation(n)]),
        "key": pa.array([few[v] for v in rng.integers(0, 9, n)]),
    })  # fmt: skip


def strange(table: pa.Table) -> pa.Table:
    """The same columns with values their model never saw."""
    found = table
    for name in ("s0", "s1", "temp", "load"):
        values = np.random.default_rng(13).normal(size=table.num_rows) * 50
        values[::9] = 1e7
        index = table.schema.get_field_index(name)
        found = found.set_column(index, table.schema.field(index), pa.array(values).cast(table.schema.field(index).type))
    index = table.schema.get_field_index("site")
    return found.set_column(index, table.schema.field(index), pa.array([f"new-{k % 40}" for k in range(table.num_rows)]))


def every_context(n: int) -> tuple[pa.Table, Callable[[Model], Model]]:
    """Columns of integers, and a change of their model's codes by which these use everything the exact layer knows."""
    rng = np.random.default_rng(14)
    t = np.arange(n)
    walk = rng.normal(size=n).cumsum()
    columns = {
        "key": pa.array(rng.integers(0, 7, n), mask=rng.random(n) < 0.2),
        "clock": pa.array((t // 60 % 24) * 100 + t % 60),
        "walk": pa.array(np.round(10 * walk).astype(np.int64), mask=rng.random(n) < 0.05),
        "wide": pa.array(rng.integers(0, 50_000, n)),
        "tied": pa.array(np.round(10 * walk + 3 * rng.normal(size=n)).astype(np.int64) * 2 + 1),
        "huge": pa.array(np.where(rng.random(n) < 0.1, rng.integers(-(2**62), 2**62, n), t)),
    }
    told = np.asarray(columns["key"].fill_null(9)) * 1000 + t // 60 % 24
    columns["told"] = pa.array(np.where(rng.random(n) < 0.1, 7, told), mask=rng.random(n) < 0.1)
    columns["trend"] = pa.array(np.round(20 * walk + rng.normal(size=n)).astype(np.int64), mask=rng.random(n) < 0.05)
    columns["mixed"] = pa.array(np.where(rng.random(n) < 0.05, 2**40, 7 * (t // 60 % 24) + rng.integers(-9, 9, n)))

    def feature(kind: str, column: int) -> Feature:
        if kind in FIXED_SIZES:
            return Feature(kind, column, 3 if kind == "rough" else 0, FIXED_SIZES[kind])
        if kind == "place":
            return Feature(kind, column, 40, 7)
        if kind == "class":
            return Feature(kind, column, 5, 4, (2, 0, 3, 3, 1))
        if kind == "value":
            return Feature(kind, column, -1, 12)
        if kind == "phase":
            return Feature(kind, column, 24, 9, (5,))
        if kind == "among":
            return Feature(kind, column, 0, min(3, column + 2), tuple(range(column)))
        edges = (-40, 0, 3, 25, 1200)
        lo, none = 2 if kind == "back" else 0, kind in ("left", "right", "between", "back")
        return Feature(kind, column, lo, len(edges) + 1 + none, edges)

    def one_after_another(keys: tuple[int, ...], terms: Sequence[Term], anchors: Sequence[Term], chunks: Chunks) -> CellPlan:
        scheme = Residual(20)
        first = DigitPlan((feature("noise" if keys else "left", -1), feature("value", 0), feature("match", -1)), (2, 7, 30, 5))
        second = DigitPlan((
            Feature("digit", -1, 0, scheme.sizes[0]), feature("fraction", -1), feature("guess", -1), replace(feature("match", -1), lo=1),
        ), (3, 1, 8, 2, 6))  # fmt: skip
        matches = Match((0,), (1,)), Match((), (3, 1)) if keys else Match((1, 0))
        linear = Linear(tuple(terms), -(1 << 14), tuple(anchors), 1 << 15)
        return CellPlan(scheme, linear, (first, second), chunks, keys, matches, 1 if keys else None)

    forward = {
        7: one_after_another(
            (), [Term("lag1", -1, 70_000), Term("lag3", -1, -4_000), Term("lag2", 2, 900), Term("lead4", 4, 500)],
            [Term("at", 2, 131_072), Term("lag1", 4, 77)], Chunks(8192, 16),
        ),
        8: one_after_another((1, 0), [Term("lag1", -1, 60_000), Term("lag200", -1, 5_000), Term("lead1", 7, 20)], [], Chunks(16384, 8)),
    }  # fmt: skip

    def changed(model: Model) -> Model:
        codes: list[ColumnCode] = []
        own_kinds = itertools.cycle(kind for kind in OWN_KINDS if kind not in ("match", *MIXED_KINDS, *ABOVE_KINDS))
        column_kinds = itertools.cycle(COLUMN_KINDS)
        for j in range(len(columns)):
            terms = [Term("mean", -1, 60_000)] * (j in (2, 4)) + [Term("at", j - 1, 4000), Term("bend", j - 1, 3000)] * (j == 4)
            linear = Linear(tuple(terms), 1 << 16, (Term("at", j - 1, 70_000),) if j == 4 else (), -5) if j not in (0, 3) else None
            scheme: Digits = Direct.over(0, 6) if j == 0 else Direct.over(0, 49_999) if j == 3 else Residual(20)
            earlier = [feature("state", j - 1)] if j else []
            digits = []
            for k, size in enumerate(scheme.sizes):
                chosen = [Feature("digit", -1, 0, scheme.sizes[k - 1])] if k else []
                chosen += [feature(next(own_kinds), -1), *(feature(next(column_kinds), j - 1) for _ in range(min(j, 1)))]
                assert len(chosen) <= MAX_FEATURES and n_contexts([f.size for f in chosen]) * size <= MAX_CELLS
                digits.append(DigitPlan(tuple(chosen), tuple(range(3, 4 + len(chosen)))))
            state = DigitPlan((feature("left", -1), *earlier), (2, 9, 40)[: 2 + len(earlier)])
            chunks = Chunks(LAST_CHUNKS[j % len(LAST_CHUNKS)], PARTS[j % len(PARTS)])
            flags = CellPlan(FLAGS, None, (DigitPlan((feature("right", -1), feature("value", 0)), (5, 6, 7)),))
            recall = {4: Recall((2,), flags), 6: Recall((0, 1), flags)}.get(j)
            value = CellPlan(scheme, linear, tuple(digits), chunks)
            codes.append(ColumnCode(
                j, model.columns[j].fill, j == 1, CellPlan(Direct.over(0, N_STATES - 1), None, (state,)), forward.get(j, value), recall
            ))  # fmt: skip
        return Model.from_files(replace(model, codes=tuple(codes)).to_files())

    return pa.table(columns), changed


def one_hot(n: int) -> tuple[pa.Table, Callable[[Model], Model]]:
    """Flags of which one a row is set, but for a few rows, and a check that their model's codes count them."""
    rng = np.random.default_rng(41)
    kind = rng.choice(7, n, p=np.array([30, 20, 15, 12, 10, 8, 5]) / 100)
    columns = {f"is {k}": pa.array((kind == k) | (rng.random(n) < 0.001), mask=rng.random(n) < 0.02 * (k == 3)) for k in range(7)}

    def checked(model: Model) -> Model:
        counted = [f for code in model.codes for digit in code.value.digits for f in digit.features if f.kind == "among"]
        assert {len(f.columns) for f in counted} >= {4, 5, 6}, counted
        return model

    return pa.table(columns), checked


def written_times(n: int) -> pa.Table:
    """Texts that are times, in every order, of every length, some of them none."""
    rng = np.random.default_rng(44)
    ticks = rng.integers(10**15, 17 * 10**14, n)
    when = [dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=int(tick)) for tick in ticks]
    written = {
        "day": "%Y%m%d", "hour": "%d.%m.%Y %H", "minute": "%m/%d/%Y %H:%M", "second": "%Y-%m-%dT%H:%M:%SZ",
        "micros": "%Y-%m-%d %H:%M:%S.%f",
    }  # fmt: skip
    texts = {name: [t.strftime(how) for t in when] for name, how in written.items()}
    texts["tenth"] = [text[:-5] for text in texts["micros"]]
    texts["nanos"] = [f"{text}{k:03d}" for text, k in zip(texts["micros"], rng.integers(0, 1000, n), strict=True)]
    for column in texts.values():
        for i, odd in enumerate(["", "2023-02-29T10:00:00Z", "1400-01-01 10:00:00.000000000", None, column[0].replace("1", "x")]):
            column[7 + 40 * i] = odd
    return pa.table({name: pa.array(column, pa.large_binary() if name == "hour" else pa.string()) for name, column in texts.items()})


def side_by_side(n: int) -> pa.Table:
    """A curve a row, a column for each place, with what floats have besides numbers; a picture a row; and what is neither."""
    rng = np.random.default_rng(46)
    curves = np.round(np.sin(np.arange(40) / 5 + rng.uniform(0, 6, (n, 1))) * rng.uniform(1, 3, (n, 1)) + rng.normal(0, 0.01, (n, 40)), 2)
    curves[rng.random(curves.shape) < 0.01] = np.nan
    curves[0, :3] = -0.0, np.inf, -np.inf
    pictures = np.clip(np.cumsum(rng.integers(-9, 10, (n, 6, 6)), axis=2) + 90, 0, 255).astype(np.uint8).reshape(n, 36)
    holes = rng.random(curves.shape) < 0.02
    columns = {f"t{k}": pa.array(curves[:, k], pa.float64(), mask=holes[:, k]) for k in range(40)}
    columns |= {"label": pa.array([("a", "b", None)[k % 3] for k in range(n)])}
    columns |= {f"px{k + 1}": pa.array(pictures[:, k]) for k in range(36)}
    required = [pa.field(name, array.type, nullable=array.null_count > 0) for name, array in columns.items()]
    return pa.table(list(columns.values()), schema=pa.schema(required, metadata={"made": "by hand"}))


def written_numbers(n: int) -> pa.Table:
    """Texts that say numbers, in every way, with and without something around them, and times as people write them; some say none."""
    rng = np.random.default_rng(45)
    walk, wide = np.cumsum(rng.integers(-90, 95, n)), rng.integers(-(10**14), 10**14, n)
    seconds = rng.integers(0, 86_400, n)
    texts = {
        "fixed": [f"{v / 100:.2f}" for v in walk.tolist()],
        "stripped": [f"{v / 100:.2f}".rstrip("0").rstrip(".") for v in walk.tolist()],
        "kept": [str(v / 100) for v in walk.tolist()],
        "zeros": [f"{v}.5000 mm" if v % 2 else f"{v}.0000 mm" for v in walk.tolist()],
        "wide": [f"{v // 1000}.{v % 1000:03d}" for v in wide.tolist()],
        "dollars": [f"{'-' * (v < 0)}${abs(v) * 7:,.2f}" for v in (walk - 700).tolist()],
        "euros": [f"{v * 777 / 100:,.2f} €".translate(str.maketrans(",.", ".,")) for v in walk.tolist()],
        "comma": [f"{v / 100:.2f}".rstrip("0").rstrip(".").replace(".", ",") for v in walk.tolist()],
        "name": [f"réf-{k:04d}" for k in (200 + 17 * np.arange(n)).tolist()],
        "price": [f"€{abs(v)}" if v % 7 else "n/a" for v in walk.tolist()],
        "second": [f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in seconds.tolist()],
    }  # fmt: skip
    texts["minute"] = [clock[:5] for clock in texts["second"]]
    texts["micros"] = [f"{clock}.{abs(v):06d}Z" for clock, v in zip(texts["second"], walk.tolist(), strict=True)]
    when = [dt.datetime(1999, 12, 30) + dt.timedelta(milliseconds=int(m)) for m in rng.integers(0, 10**11, n)]
    texts["american"] = [f"{t.month}/{t.day}/{t.year} {t:%I:%M %p}".replace(" 0", " ") for t in when]
    texts["log"] = [f"[{t:%d/%b/%Y:%H:%M:%S} +0000]" for t in when]
    texts["short"] = [f"{t:%d-%b-%y}".upper() for t in when]
    texts["mail"] = [f"{t:%a, %d %b %Y %H:%M:%S},{t.microsecond // 1000:03d} GMT" for t in when]
    texts["noon"] = [f"{t:%I:%M%p}".lower() for t in when]
    odd = ["", "-0.00", None, "0012", "1e5", "24:00:00", "12:60", "+7", "٣", "1.005", "9" * 19, "2/30/2000 1:00 AM"]
    for column in texts.values():
        for i, text in enumerate(odd):
            column[7 + 40 * i] = text
    return pa.table({name: pa.array(column, pa.large_string() if name == "kept" else pa.string()) for name, column in texts.items()})


def priced(n: int) -> tuple[pa.Table, Callable[[Model], Model]]:
    """Amounts that are products, shares that are quotients, and a check that their model's codes tell them so."""
    rng = np.random.default_rng(43)
    price, number, seen = np.round(rng.lognormal(3, 1, n), 2), rng.integers(-3, 30, n), rng.integers(0, 90_000, n)
    less, clicked = rng.choice([0.0, 0.05, 0.1, 0.35], n), (seen * rng.beta(2, 8, n)).astype(np.int64)
    amount = np.round(price * number, 2)
    share = np.round(clicked / np.maximum(seen, 1), 4)
    columns = {
        "price": price, "number": number, "seen": seen, "less": less, "clicked": clicked, "amount": amount,
        "net": np.round(amount * (1 - less), 2), "share": share,
    }  # fmt: skip

    def checked(model: Model) -> Model:
        kinds = {term.kind[:4] for code in model.codes if code.value.linear for term in code.value.linear.terms}
        assert kinds >= {"time", "over"}, kinds
        return model

    return pa.table({name: pa.array(values, mask=rng.random(n) < 0.01) for name, values in columns.items()}), checked


def sold(n: int) -> tuple[pa.Table, Callable[[Model], Model]]:
    """Amounts that are a quantity times what goods cost, of which no column tells, and a check that their model's codes recall that."""
    rng = np.random.default_rng(47)
    goods, number = rng.integers(0, 40, n), rng.integers(1, 400, n) * 100
    cents = rng.integers(900, 90_000, 40)[goods] * number // 100 + (rng.random(n) < 0.01)
    numbers, amounts = pa.array(number, mask=rng.random(n) < 0.02), pa.array(cents, mask=rng.random(n) < 0.03)
    columns = {"goods": goods, "number": numbers, "amount": amounts}

    def checked(model: Model) -> Model:
        units = [code.recall.unit for code in model.codes if code.recall is not None]
        assert any(unit is not None and unit.column == 1 and unit.by_step == 1 for unit in units), units
        return model

    return pa.table(columns), checked


def of_lanes(n: int, stretches: Sequence[int]) -> tuple[pa.Table, Callable[[Model], Model]]:
    """Columns of integers, and a change of their model's codes by which rows one after another are cut into lanes of three lengths."""
    rng = np.random.default_rng(32)
    walks = [np.round(rng.normal(size=n).cumsum() * 3).astype(np.int64) for _ in stretches]
    columns = {
        "key": pa.array(rng.integers(0, 9, n)),
        "all": pa.array(walks[0]),
        "some": pa.array(walks[1], mask=rng.random(n) < 0.2),
        "sorted": pa.array(walks[2] + 100 * np.arange(n) % 7, mask=rng.random(n) < 0.05),
    }

    def changed(model: Model) -> Model:
        scheme = Residual(20)
        states = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),), Chunks(64, 4))
        digits = (
            DigitPlan((Feature("noise", -1, 0, FIXED_SIZES["noise"]),), (9, 5)),
            DigitPlan((Feature("digit", -1, 0, scheme.sizes[0]),), (7, 70)),
        )
        codes = [ColumnCode(0, model.columns[0].fill, 0, states, CellPlan(Direct.over(0, 8), None, (DigitPlan((), (16,)),), Chunks(64, 4)))]
        for j, stretch in enumerate(stretches, 1):
            terms = (Term("lag1", -1, 65_536), *[Term("lag2", -1, 9_000), Term("lead1", 1, 500)][: j - 1])
            linear, keys = Linear(terms, 1 << 15, (Term("at", 0, 70_000),), -3), (0,) if j == 3 else ()
            matches = (Match((0,), (1,)),) if j == 2 else ()
            plan = CellPlan(scheme, linear, digits, Chunks(256, 8, stretch), keys, matches)
            codes.append(ColumnCode(j, model.columns[j].fill, 0, states, plan))
        return Model.from_files(replace(model, codes=tuple(codes)).to_files())

    return pa.table(columns), changed


def gathered(n: int) -> tuple[pa.Table, Callable[[Model], Model]]:
    """Columns of integers, and a change of their model's codes by which their symbols are gathered by context."""
    rng = np.random.default_rng(31)
    t = np.arange(n)
    walk, kind = np.round(rng.normal(size=n).cumsum() * 4).astype(np.int64), rng.integers(0, 5, n)
    columns = {
        "kind": pa.array(kind, mask=rng.random(n) < 0.1),
        "same": pa.array(np.full(n, 3)),
        "broad": pa.array(np.where(rng.random(n) < 0.8, 65_000 - 13_000 * kind, rng.integers(0, 65_536, n))),
        "walk": pa.array(walk, mask=rng.random(n) < 0.05),
        "told": pa.array(np.where(rng.random(n) < 0.01, 2**50, walk * 3 + kind + t // 40)),
        "again": pa.array(np.where(rng.random(n) < 0.2, rng.integers(0, 99, n), kind * 11)),
    }

    def plan(scheme: Digits, linear: Linear | None, *features: Feature) -> CellPlan:
        before = [[], *([Feature("digit", -1, 0, size)] for size in scheme.sizes[:-1])]
        digits = [DigitPlan((*first, *features), ()) for first in before]
        return CellPlan(scheme, linear, tuple(digits), gathered=True)

    def changed(model: Model) -> Model:
        value = Feature("value", 0, 0, 6)
        beside = Feature("left", -1, 0, 6, (-40, -10, 0, 25)), Feature("level", -1, 0, FIXED_SIZES["level"])
        plans = [
            plan(Direct.over(0, 5), None), plan(Direct.over(0, 9), None, value), plan(Direct.over(0, 65_535), None, value),
            plan(Residual(6), Linear((Term("mean", -1, 65_536),), 0), *beside),
            plan(Residual(30), Linear((Term("at", 3, 196_608),), 0), value, Feature("guess", -1, 0, 4, (-9, 0, 300))),
            plan(Direct.over(0, 99), None, value),
        ]  # fmt: skip
        flags, states = plan(FLAGS, None, value), plan(Direct.over(0, N_STATES - 1), None)
        codes = [
            ColumnCode(j, model.columns[j].fill, 0, states, one, Recall((0,), flags) if j == 5 else None) for j, one in enumerate(plans)
        ]
        return Model.from_files(replace(model, codes=tuple(codes)).to_files())

    return pa.table(columns), changed


def tensors(n: int) -> pa.Table:
    """Images in colours, grids with holes, vectors of elements that tell each other, sounds."""
    rng = np.random.default_rng(21)
    y, x = np.mgrid[0:9, 0:10]
    light = 120 + 70 * np.sin(x / 5 + rng.random(n)[:, None, None] * 6) * np.cos(y / 4 + rng.random(n)[:, None, None] * 6)
    image = light[..., None] * np.array([1, 0.9, 0.7]) + rng.normal(size=(n, 9, 10, 3)) + rng.normal(size=(n, 9, 10, 1))
    grid = (light / 9 + rng.normal(size=light.shape) / 9).astype(np.float32)
    grid[rng.random(grid.shape) < 0.05] = np.nan
    vector = (rng.normal(size=(n, 4)) @ rng.normal(size=(4, 12)) + rng.normal(size=(n, 12)) / 4).astype(np.float32)
    sound = np.rint(900 * np.sin(np.arange(48) / 3 + 6 * rng.random((n, 1))) + 9 * rng.normal(size=(n, 48))).astype(np.int16)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(sound.ravel()), 48, mask=pa.array(np.arange(n) % 90 == 7))
    return pa.table({
        "image": pa.FixedShapeTensorArray.from_numpy_ndarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)),
        "grid": pa.FixedShapeTensorArray.from_numpy_ndarray(grid),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vector.ravel()), 12),
        "sound": lists,
        "label": pa.array(rng.integers(0, 3, n), pa.int8()),
    })  # fmt: skip


def nested(n: int) -> pa.Table:
    """Structs in structs, lists of one length and a few of others, lists in lists; nulls at every depth."""
    rng = np.random.default_rng(22)
    u = rng.integers(0, 30, n)
    vectors = [None if k % 83 == 5 else list(map(float, np.round(v[: 2 if k % 71 == 3 else 6], 4)))
               for k, v in enumerate(rng.normal(size=(30, 6))[u] + rng.normal(size=(n, 6)) / 30)]  # fmt: skip
    user = [None if v == 7 else {"id": int(v), "home": None if v == 9 else {"lat": 40 + v / 7, "lon": v / 8}} for v in u]
    never = pa.struct([pa.field("kind", pa.string(), nullable=False), pa.field("cost", pa.float64(), nullable=False)])
    return pa.table(
        [
            pa.array(user), pa.array([{"kind": f"k{v % 5}", "cost": float(rng.integers(900)) / 7} for v in u], never),
            pa.array(vectors, pa.large_list(pa.field("element", pa.float32()))),
            pa.array([[[int(v), 1, 2], [3, 4, k % 3]] if k % 97 else [[1], []] for k, v in enumerate(u)], pa.list_(pa.list_(pa.int16()))),
            pa.array([["a", "b"][: int(v) % 3] for v in u]),
            pa.array([None if k % 89 == 8 else [int(v), 9, k % 5] for k, v in enumerate(u)], pa.list_(pa.uint8(), 3)),
            pa.array([list(map(float, np.round(v, 2))) if k % 91 else [] for k, v in enumerate(rng.normal(size=(30, 40))[u])]),
        ],
        schema=pa.schema([
            pa.field("user", pa.infer_type(user), metadata={"of": "user"}), pa.field("what", never, nullable=False),
            pa.field("vector", pa.large_list(pa.field("element", pa.float32()))), pa.field("grid", pa.list_(pa.list_(pa.int16()))),
            pa.field("tags", pa.list_(pa.string())), pa.field("colour", pa.list_(pa.uint8(), 3)),
            pa.field("embedding", pa.list_(pa.float64())),
        ], metadata={"made": "by hand"}),
    )  # fmt: skip


def mixed(model: Model) -> Model:
    """The tensors of a model told by mixes: with no reference, one of one plane, and two, one of them of two planes."""
    codes = []
    for tensor in model.tensors:
        width, planes = 10 if tensor.planes.piece == 90 else tensor.planes.piece, list[ColumnCode]()
        for k, code in enumerate(tensor.codes):
            earlier = [one.column for one in planes]
            references = [((j, 1 << 16),) for j in earlier[-1:]] + ([tuple((j, 1 << 15) for j in earlier)] if k == 2 else [])
            others = [Simple(0, ((width, 6), (2 * width, -2))), Simple(0, ((1, 4), (width - 1, 4), (width, -4)))]
            others += [Simple(1 + r, ((1, 2), (width - 1, 2))) for r in range(len(references))]
            mix = Mixed(tuple(references), tuple(others), (1, 2, width - 1, width, width + 1), 11 + k, 1 + k)
            own = (Term("lag1", -1, 40_000), Term(f"lag{width}", -1, 30_000), Term(f"lag{width + 1}", -1, -10_000))
            linear = Linear((*own, *(Term("at", j, 3_000) for j in earlier)), -(1 << 20), (), 100 << 16, mixed=mix)
            apart, around = (Feature(kind, -1, 0, NOISE_LEVELS) for kind in MIXED_KINDS)
            scheme = Residual(9)
            first = DigitPlan((around, Feature("fraction", -1, 0, FIXED_SIZES["fraction"])), (20, 30, 60))
            second = DigitPlan((Feature("digit", -1, 0, scheme.sizes[0]), apart, Feature("noise", -1, 0, NOISE_LEVELS)), (9, 8, 40, 90))
            planes.append(replace(code, value=CellPlan(scheme, linear, (first, second), Chunks(64, 16), ())))
        codes.append(replace(tensor, codes=tuple(planes)))
    assert len(codes) == 3
    return Model.from_files(replace(model, tensors=tuple(codes)).to_files())


def lines_of_a_map(n: int) -> tuple[pa.Table, Callable[[Model], Model]]:
    """A map, line after line, clipped, with nulls; and a change of their model's codes by which these look at rows above in every way."""
    rng = np.random.default_rng(31)
    height = np.cumsum(np.cumsum(rng.normal(size=(80, 60)), axis=0), axis=1) / 4
    start, length = rng.integers(0, 10, 80), rng.integers(30, 50, 80)
    places = [(line, at) for line in range(80) for at in range(start[line], start[line] + length[line])][:n]
    shown = np.array([height[place] for place in places])
    columns = {
        "height": pa.array(np.rint(4 * shown).astype(np.int64), mask=rng.random(len(shown)) < 0.05),
        "twice": pa.array(np.rint(8 * shown + rng.normal(size=len(shown))).astype(np.int64), mask=rng.random(len(shown)) < 0.1),
        "kind": pa.array((shown > 0).astype(np.int64)),
    }

    def changed(model: Model) -> Model:
        edges, scheme = (-20, 0, 30), Residual(12)
        beside = [Feature("above", -1, k, len(edges) + 2, edges) for k in (0, -1, 3)]
        off = Feature("off", -1, 0, NOISE_LEVELS)
        own = [Term("lag1", -1, 1 << 16), Term("above", -1, 40_000), Term("above-1", -1, -40_000), Term("above+3", -1, 900)]
        first = DigitPlan((off, beside[0]), (2, 7, 30))
        second = DigitPlan((Feature("digit", -1, 0, scheme.sizes[0]), beside[1]), (3, 1, 8))
        linear = Linear(tuple(own), -(1 << 14), (), 1 << 15)
        of_height = Term("at", 0, 20_000), Term("above", 0, -20_000), Term("above-2", 0, 70)
        told = Linear((*own[:3], *of_height), 1 << 14, (Term("at", 0, 9_000),), 5)
        plans = [
            CellPlan(scheme, linear, (first, second), Chunks(64, 16), ()), CellPlan(scheme, told, (first, second), Chunks(128, 64), ()),
            CellPlan(Direct.over(0, 1), Linear((), 0), (DigitPlan((off, beside[2]), (9, 9, 9)),), Chunks(64, 2), ()),
        ]  # fmt: skip
        state = CellPlan(Direct.over(0, N_STATES - 1), None, (DigitPlan((), (16,)),))
        codes = [ColumnCode(j, model.columns[j].fill, 0, state, plan) for j, plan in enumerate(plans)]
        return Model.from_files(replace(model, codes=tuple(codes)).to_files())

    return pa.table(columns), changed


def bent(n: int) -> pa.Table:
    """Columns on a curved surface, where a network beats any linear map."""
    rng = np.random.default_rng(15)
    a, b = rng.random(n) * 2 * np.pi, rng.normal(size=n)
    surface = np.stack([np.cos(a), np.sin(a), np.cos(2 * a) + b, b * b, np.abs(b), np.tanh(3 * b)], 1)
    noisy = (surface + 0.01 * rng.normal(size=surface.shape)).astype(np.float32)
    return pa.table({f"x{k}": noisy[:, k] for k in range(6)} | {"octant": pa.array((a * 4 / np.pi).astype(np.int8))})


def networked(*arguments: Any, **named: Any) -> BaseFit:
    """A base layer with a network in it, as a dataset of millions of rows would have one."""
    found = fit_base(*arguments, **{**named, "n_rows_total": 4_000_000, "kinds": ("vae",)})
    assert found.layer is not None and found.layer.decoder.network is not None
    return replace(found, compared=tuple({**row, "n_bytes": 0} for row in found.compared))


def write(
    case: str,
    shards: Sequence[pa.Table],
    tolerances: Sequence[str] = (),
    preview: str | float = "off",
    block_rows: int = 400,
    changed: Callable[[Model], Model] = lambda model: model,
    recipe: Recipe = WHOLE,
) -> None:
    """Write one case; the model is fitted to the first shard, and every promise is checked before anything is kept."""
    if ONLY and case not in ONLY:
        return
    folder = HERE / ".".join(str(part) for part in FORMAT_VERSION) / case
    shutil.rmtree(folder, ignore_errors=True)
    leaves = Leaves.of(shards[0].schema, recipe)
    shards = [pa.Table.from_batches([leaves.split(shard.combine_chunks().to_batches()[0])]) for shard in shards]
    model = changed(fitted(shards[0], tolerances, preview=preview, seconds=5).model)
    store = ObjectStore.open(str(folder / "archive"))
    ref = stage_model(store, model.to_files(with_schema=False), model.schema)
    encoded = [encode_shard(model, shard, block_rows=block_rows) for shard in shards]
    entries = [stage_shard(store, ref, f"{number:032x}", shard) for number, shard in enumerate(encoded)]
    refs = tuple(entry.ref for entry in entries)
    commit(store, Manifest(schema=shards[0].schema, models=(ref,), shards=refs, created_at="2025-01-01T00:00:00Z"))
    archive, first = open_archive(str(folder / "archive")), 0
    for shard in shards:
        assert_kept(shard, of_leaves(archive, (first, first + shard.num_rows)), resolved(shards[0], tolerances))
        first += shard.num_rows
    keep(folder / "expected.arrow", archive.to_table())
    if model.preview is not None:
        keep(folder / "preview.arrow", archive.to_table(preview=True))
    n_bytes = sum(f.stat().st_size for f in (folder / "archive").rglob("*") if f.is_file())
    codings = sorted({outcome.coding for shard in encoded for outcome in shard.outcomes})
    print(f"{case}: {n_bytes:,} bytes, {len(codings)} codings: {', '.join(codings)}{', with a preview' if model.preview else ''}")
    assert n_bytes < MOST_BYTES, n_bytes
    shutil.rmtree(folder / "archive" / "pending", ignore_errors=True)


def of_leaves(archive: Archive, rows: tuple[int, int]) -> pa.Table:
    """Rows as they are stored."""
    return pa.Table.from_batches(list(archive.leaf_batches(rows=rows)), archive.manifest.schema)


def write_history(n_runs: int) -> None:
    """A snapshot a run, of a shard more each; those of later ones list most shards in chapters, and the schema in an object."""
    folder = HERE / ".".join(str(part) for part in FORMAT_VERSION) / "history"
    shutil.rmtree(folder, ignore_errors=True)
    rows = telemetry(50 * n_runs, 3)
    model = fitted(rows, ["temp=0.05"], preview="off", seconds=5).model
    store = ObjectStore.open(str(folder / "archive"))
    ref = stage_model(store, model.to_files(with_schema=False), model.schema)
    shards: list[ShardRef] = []
    parts = [rows.slice(50 * number, 50) for number in range(n_runs)]
    for number, part in enumerate(parts):
        entry = stage_shard(store, ref, f"{number:032x}", encode_shard(model, part), [(f"{number:02}.parquet", 0, 50)])
        proof = Proof.of(f"{number:064x}", {"temp": (0.05, 0.03, 50)}, rows.schema.names)
        shards.append(replace(entry.ref, proof=proof))
        sources = tuple(SourceRecord(f"{k:02}.parquet", 100 + k, f"{k:064x}", None, 1.5, 50) for k in range(number + 1))
        before = newest_manifest(store)
        commit(store, Manifest(
            schema=rows.schema, models=(ref,), shards=tuple(shards), sources=sources, parent=number, created_at="2025-01-01T00:00:00Z",
            chapters=before.chapters if before else (),
        ))  # fmt: skip
    keep(folder / "expected.arrow", open_archive(str(folder / "archive")).to_table())
    n_bytes = sum(f.stat().st_size for f in (folder / "archive").rglob("*") if f.is_file())
    print(f"history: {n_bytes:,} bytes, {n_runs} snapshots")
    assert n_bytes < MOST_BYTES, n_bytes
    shutil.rmtree(folder / "archive" / "pending", ignore_errors=True)


def keep(path: Path, table: pa.Table) -> None:
    """A table as an Arrow file, zstd."""
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)


def measured_as(sizes: Callable[..., list[tuple[str, int]]]) -> Any:
    """Conventional codings take what `sizes` says of a way and an array."""

    class Race(choosing.peers.Race):
        def __init__(self, way: Any, array: pa.Array, _: float) -> None:
            self._told = dict(sizes(way, array))
            self.weighed = conventional.Weighed(way.plan, array, way.codes)

        def exact(self) -> dict[str, int]:
            return self._told

        def left_open(self, *_: Any) -> None:
            return None

        def about(self, _: float) -> None:
            return None

    def in_blocks(near: Any, in_one: Any, *_: Any) -> Any:
        return min(((in_one[id(way), name], way, name, {}) for way, name in near), key=lambda found: found[0])

    peers = mock.Mock(Race=Race, whole=choosing.peers.whole, of_texts=lambda *_: 1 << 40)
    return mock.patch.multiple(choosing, peers=peers, _of_tensors=lambda *a: dict(sizes(*a)), _best_in_blocks=in_blocks)


def main() -> None:
    """Every case."""
    types = every_type(300)
    write("types", [types.slice(0, 200), types.slice(200)], block_rows=120)
    rows = telemetry(1600, 3)
    few = rows.drop_columns([*SENSORS[2:], "noise"])
    pictures = tensors(190)
    with measured_as(lambda *_: [("ipc", 1 << 40)]), mock.patch.object(tensor_fitting, "WORTH_LEARNING", 100.0):
        write("tensors", [pictures.slice(0, 170), pictures.slice(170)], ["grid=0.1", "vector=0.02"], block_rows=100)
    plain = tensors(100).drop_columns(["vector"])
    with measured_as(lambda *_: [("ipc", 1 << 40)]), mock.patch.object(tensor_fitting, "WORTH_LEARNING", 100.0):
        write("mixed", [plain], ["grid=0.1"], block_rows=100, changed=mixed)
    write("lossless", [few.slice(0, 1000), strange(few.slice(1000))])
    bounds = ["temp=0.05", "load=0.5", "noise=0.01", *(f"{name}=1%" for name in SENSORS)]
    write("tolerance", [rows.slice(0, 1000), strange(rows.slice(1000))], bounds, preview=0.3)
    targets = ["temp=0.05", *(f"{name}=rmse:3%" for name in SENSORS)]
    few = rows.drop_columns(["noise", "note"])
    write("distortion", [few.slice(0, 1000), few.slice(1000, 400), strange(few.slice(1400))], targets, preview=0.8)
    curved = bent(2000)
    with mock.patch.object(layers, "fit_base", networked):
        write("network", [curved.slice(0, 1600), curved.slice(1600)], [f"x{k}=rmse:5%" for k in range(6)])
    table, asked, ranking = every_coding(300)
    with measured_as(lambda way, array, *_: ranking(way.plan, array, way.codes)):
        write("codings", [table], asked, block_rows=150)
    with mock.patch.object(fitting, "_fit_exact", lambda *_: ((), 0.0)):
        write("lattices", [every_lattice(1400)], block_rows=700)
    unseen = mock.Mock(worth_trying=lambda *_: False)
    with (
        measured_as(lambda *_: [("ipc", 1 << 40)]),
        mock.patch.object(picking, "WORTH_COUNTING", 100.0),
        mock.patch.object(choosing, "lattices", unseen),
    ):
        write("counted", [every_lattice(1400)], block_rows=700)
    taken: Counter[int] = Counter()

    def rarest(found: Sequence[bytes]) -> bytes:
        chosen = min(found, key=lambda one: taken[one[0]])
        taken[chosen[0]] += 1
        return chosen

    never = mock.Mock(holds=texts.holds, pack=lambda _: None)
    with (
        mock.patch.multiple(packed_texts, WORTH_PACKING=100.0, LEAST_BYTES=0, texts=never),
        mock.patch.object(field_columns, "shortest", rarest),
    ):
        write("fields", [every_field(700)], block_rows=350)
    with mock.patch.multiple(packed_nested, WORTH_PACKING=100.0, LEAST_BYTES=0):
        write("lists", [every_list(440)], block_rows=220)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("fractions", [shares(3000)], block_rows=1500)
    with measured_as(lambda *_: [("elements", 1)]), mock.patch.object(tensor_fitting, "WORTH_LEARNING", 0.0):
        write("elements", [by_elements(300)], block_rows=150)
    write("wide", [wide(320)], ["*=1%"], block_rows=160)
    write("prose", [prose(800)], block_rows=400)
    if not ONLY or "history" in ONLY:
        write_history(9)
    rows = nested(500)
    recipe = find_recipe(rows.schema, lambda: rows.to_batches()[0].slice(0, 100))
    bounds = ["what.cost=0.1", "vector[2]=0.02", "embedding=0.05"]
    write("leaves", [rows.slice(0, 300), rows.slice(300)], bounds, block_rows=150, recipe=recipe)
    table, changed = every_context(1800)
    with (
        measured_as(lambda *_: [("ipc", 1 << 40)]),
        mock.patch.multiple(encoding, OWN_STREAM_BYTES=300, OWN_SECTION_BYTES=200),
    ):
        write("contexts", [table], block_rows=900, changed=changed)
    table, changed = gathered(2600)
    in_haste = mock.patch.object(streams, "encoder_of", lambda _: Encoder(packing=1e6))
    with measured_as(lambda *_: [("ipc", 1 << 40)]), in_haste, mock.patch.object(packing, "PCO_LEAST", 1):
        write("gathered", [table], block_rows=1300, changed=changed)
    table, changed = of_lanes(1500, SHORT_STRETCHES)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("lanes", [table], block_rows=750, changed=changed)
    table, changed = of_lanes(3500, LONG_STRETCHES)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("longer", [table], block_rows=2600, changed=changed)
    table, changed = one_hot(6000)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("groups", [table], block_rows=3000, changed=changed)
    table, changed = priced(1600)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("products", [table], block_rows=800, changed=changed)
    table, changed = sold(3000)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("units", [table], block_rows=1500, changed=changed)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("times", [written_times(700)], block_rows=350)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("numbers", [written_numbers(800)], block_rows=400)
    curves = side_by_side(320)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("strips", [curves.slice(0, 200), curves.slice(200)], block_rows=100, recipe=Recipe(strips={"t0": 40, "px1": 36}))
    table, changed = lines_of_a_map(2400)
    with measured_as(lambda *_: [("ipc", 1 << 40)]):
        write("above", [table], block_rows=1200, changed=changed)


if __name__ == "__main__":
    main()
