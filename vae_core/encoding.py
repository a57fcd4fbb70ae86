"""A table as a shard: every column by what takes fewer bytes, what was learned or the best conventional coding, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core import choosing, sections
from vae_core.arrays import from_numpy
from vae_core.base import GAIN_UNIT
from vae_core.coders import conventional
from vae_core.coders.parquet import chunk_bytes
from vae_core.encoded import ColumnOutcome, EncodedBlock, EncodedShard, NativeColumn
from vae_core.entropy.rans import Encoder
from vae_core.errors import BadInput
from vae_core.latents import (
    AMPLE,
    ColumnState,
    PreviewLatents,
    beside,
    distortion_latents,
    latents_that_pay,
    preview_paid,
    preview_tells,
    slice_codes,
)
from vae_core.layout import ABOVE, LATENT, LEARNED, POOL, UNIFORM, Layout
from vae_core.model import Model
from vae_core.peers import Measure
from vae_core.streams import Stream, Streamed, chosen, each, encoder_of, misfit_bytes

BLOCK_ROWS = 131_072
OWN_STREAM_BYTES = 48_000
OWN_SECTION_BYTES = 24_000
LATENT_ENCODINGS = ("plain", "dictionary", "split")
TRIFLE = 0.0005  # of conventional codings: so few bytes are not worth the time it takes to encode a shard again
FAST, FAST_SPREAD = 3, 1.4  # a zstd level whose bytes are so far from what is stored at most, an encoding beside another


def encode_shard(
    model: Model,
    table: pa.Table,
    *,
    block_rows: int = BLOCK_ROWS,
    preview: bool | None = True,
    targets: Mapping[str, float] | None = None,
    measure: Measure = Measure.NOW,
    known: Mapping[str, int] | None = None,
) -> EncodedShard:
    """Encode (n_rows,) of the model's schema. The result holds every value as its tolerance asks, checked for each column.

    preview : keep the latents of the preview layer, where the model has one; None: only where the learned columns save what
              they cost, so that the shard is not larger than its conventional coding
    targets : column -> root mean square error it may have, for columns the model quantises uniformly: their plans hold but the
              bound that met the target on the sample; a shard that misses it keeps the worst values as they are, or all of them
    measure : NOW: what conventional codings take of every column. Else, of columns that are learned, where less shows that they take
              more, leave it to `measured`; outcomes say about how many bytes of them until then. LATER: what that finds has to be looked at
    known   : column -> conventional bytes as `measured` found them, which are not measured again where the column's stream takes less
    Raises BadInput when the table has another schema.
    """
    if not table.schema.equals(model.schema):
        raise BadInput(f"table has columns {table.schema.names[:6]}…, the model was made for {model.schema.names[:6]}…")
    asked = targets or {}
    every = range(len(model.columns))
    columns = each(lambda j: choosing.prepare(model, j, table.column(j), asked.get(model.columns[j].name)), every)
    spans = even_spans(table.num_rows, block_rows)
    may_be_learned = {j for j in model.learned if columns[j].holds}
    if model.distortion is not None:
        may_be_learned -= set(model.distortion.columns)
    each(lambda j: choosing.settle(model, j, columns[j], spans=spans), [j for j in every if j not in may_be_learned])
    latents, gain = distortion_latents(model, columns, spans)
    layer_bytes = None if latents is None else latents_that_pay(model, columns, latents)
    if layer_bytes is None:
        latents, gain = None, GAIN_UNIT
    by_layer = set(model.distortion.columns) if latents is not None and model.distortion is not None else set()
    learned, above = chosen(model, columns, spans, by_layer, measure, known)
    codings = [LATENT if j in by_layer else LEARNED if j in learned else column.coding for j, column in enumerate(columns)]
    sketch = None if model.preview is None or not spans else PreviewLatents(model, columns)
    if (in_doubt := preview is None) and sketch is not None:
        exact = {j: sum(e.bits for e in found) / 8 + misfit_bytes(columns[j]) for j, found in learned.items()}
        preview = bool(by_layer) or (preview_paid(sketch, columns, spans, exact) and preview_tells(model, columns, table.num_rows))
    shard = _assemble(model, columns, spans, codings, learned, latents, gain, sketch if preview else None, above)
    told = {} if layer_bytes is None else _layer_bits(model, layer_bytes, table.num_rows)
    return replace(shard, bits_per_value=shard.bits_per_value | told, preview_in_doubt=in_doubt and bool(shard.layout.get("preview")))


def measured(shard: EncodedShard, by_part: bool = False) -> EncodedShard:
    """The shard with what conventional codings take of every column. by_part: of columns that were not measured for the choice, by a part
    of their rows, in a tenth of the time and rather too few bytes."""
    names = list(shard.rivals)
    found = dict(zip(names, each(lambda name: shard.rivals[name](by_part), names), strict=True))
    outcomes = [replace(o, conventional_bytes=found.get(o.name, o.conventional_bytes)) for o in shard.outcomes]
    return replace(shard, outcomes=tuple(outcomes), rivals={})


def beaten_by(shard: EncodedShard, compared: EncodedShard) -> dict[str, int]:
    """What a shard has to be encoded again for: `known` of columns as `compared`, what `measured` makes of the shard, tells them. Empty
    where it is as good as if all had been measured at once, or worse by a trifle.

    Its rows may not be like the part of them that was looked at, so that columns are learned that a conventional coding takes fewer bytes
    for, or a preview that may be left out (preview=None) is kept for savings that are not there.
    """
    pairs = list(zip(shard.outcomes, compared.outcomes, strict=True))
    told = {now.name: now.conventional_bytes for now in compared.outcomes if now.name in shard.rivals}
    whole = sum(now.conventional_bytes for now in compared.outcomes)
    saved = {now.name: now.conventional_bytes - now.n_bytes for now in compared.outcomes if now.coding == LEARNED}
    lost = sum(max(0, -saved.get(name, 0)) for name in told)
    is_learned_later = any(then.conventional_bytes != now.conventional_bytes for then, now in pairs)
    in_vain = shard.preview_in_doubt and is_learned_later and sum(saved.values()) < AMPLE * whole
    return told if lost > TRIFLE * whole or in_vain else {}


def _layer_bits(model: Model, n_bytes: int, n_rows: int) -> dict[str, float]:
    """Column -> bits a row of its share of a distortion layer's latents: they are of all its columns at once, so by their widths."""
    assert model.distortion is not None
    plans = [model.columns[j] for j in model.distortion.columns]
    width = sum(plan.width for plan in plans)
    return {plan.name: 8 * n_bytes * plan.width / width / n_rows for plan in plans} if n_rows else {}


def even_spans(n_rows: int, block_rows: int) -> list[tuple[int, int]]:
    """(first row, rows) of blocks of about block_rows rows, all of a size: a small last block would learn everything anew."""
    n_blocks = max(1, round(n_rows / block_rows)) if n_rows else 0
    edges = [n_rows * k // n_blocks for k in range(n_blocks + 1)] if n_blocks else []
    return [(start, stop - start) for start, stop in itertools.pairwise(edges)]


def _assemble(
    model: Model,
    columns: list[ColumnState],
    spans: Sequence[tuple[int, int]],
    codings: list[str],
    learned: dict[int, list[Streamed]],
    latents: list[NDArray[np.integer[Any]]] | None,
    gain: int,
    sketch: PreviewLatents | None,
    above: Sequence[bytes],
) -> EncodedShard:
    streams = _streams(model, learned, len(spans))
    native_names = _native_names(model, codings)
    blocks: list[tuple[dict[str, pa.Array], dict[str, bytes]]] = []
    for b, (start, n) in enumerate(spans):
        natives: dict[str, pa.Array] = {}
        parts: dict[str, bytes] = {}
        if sketch is not None and model.preview is not None:
            z = sketch.of((start, n))
            natives |= {name: from_numpy(z[:, k]) for k, name in enumerate(model.preview.latent_names)}
        if latents is not None and model.distortion is not None:
            natives |= {name: from_numpy(latents[b][:, k]) for k, name in enumerate(model.distortion.latent_names)}
        if above:
            parts[ABOVE] = above[b]
        for k, stream in enumerate(streams):
            parts[f"s{k}"] = _joined(encoder_of(model), [learned[j][b] for j in stream])
        for j, coding in enumerate(codings):
            _store_column(model, j, columns[j], coding, start, n, natives, parts, native_names)
        blocks.append((natives, parts))
    return _finished(model, columns, spans, codings, learned, streams, native_names, blocks, sketch is not None, gain)


def _joined(joined: Encoder, coded: Sequence[Streamed]) -> bytes:
    """One stream of columns one after another."""
    if isinstance(coded[0], Stream):
        return coded[0].data
    for one in coded:
        assert isinstance(one, Encoder)
        joined.absorb(one)
    return joined.finish()


def _store_column(
    model: Model,
    j: int,
    column: ColumnState,
    coding: str,
    start: int,
    n: int,
    natives: dict[str, pa.Array],
    parts: dict[str, bytes],
    native_names: dict[int, str],
) -> None:
    plan = model.columns[j]
    if coding in (LEARNED, LATENT):
        assert column.codes is not None
        for kind, part in beside(slice_codes(column.codes, start, n, plan.width), with_states=coding == LATENT).items():
            parts[f"{kind}{j}"] = part
            column.n_bytes += len(part)
        return
    codes = None if column.stored is None else slice_codes(column.stored, start, n, plan.width)
    if coding.startswith(UNIFORM):
        plan, coding = model.uniform[j], coding.removeprefix(UNIFORM)
    stored = column.packed.get((start, n)) or conventional.encode(plan, coding, column.array.slice(start, n), codes)
    if stored.native is not None:
        natives[native_names[j]] = stored.native
    if stored.payload is not None:
        parts[f"c{j}"] = stored.payload
        column.n_bytes += len(stored.payload)


def _streams(model: Model, learned: dict[int, list[Streamed]], n_blocks: int) -> list[list[int]]:
    """A stream of its own for tensors, and for a column whose lanes it can pay for; the others share one."""
    tensors = {code.column for code in model.tensors}
    shared: list[int] = []
    alone: list[list[int]] = []
    for j in model.learned:
        if j in learned:
            n_bytes = sum(e.bits for e in learned[j]) / 8
            (alone.append([j]) if j in tensors or n_bytes > OWN_STREAM_BYTES * n_blocks else shared.append(j))
    return ([shared] if shared else []) + alone


def _native_names(model: Model, codings: Sequence[str]) -> dict[int, str]:
    """Names in latents.parquet: the column's own, unless a latent has it."""
    taken = {name for base in (model.preview, model.distortion) if base for name in base.latent_names}
    names: dict[int, str] = {}
    for plan, coding in zip(model.columns, codings, strict=True):
        if coding in (LEARNED, LATENT):
            continue
        name = plan.name if plan.name and "." not in plan.name else f"c{plan.index}"
        while name in taken:
            name += "_"
        taken.add(name)
        names[plan.index] = name
    return names


def _finished(
    model: Model,
    columns: list[ColumnState],
    spans: Sequence[tuple[int, int]],
    codings: list[str],
    learned: dict[int, list[Streamed]],
    streams: list[list[int]],
    native_names: dict[int, str],
    blocks: list[tuple[dict[str, pa.Array], dict[str, bytes]]],
    with_preview: bool,
    gain: int,
) -> EncodedShard:
    names = sorted({name for _, parts in blocks for name in parts}, key=lambda s: (s[0], int(s[1:])))
    sizes = {name: sum(len(parts.get(name, b"")) for _, parts in blocks) for name in names}
    own = tuple(name for name in names if sizes[name] > OWN_SECTION_BYTES * max(1, len(blocks)))
    used = {name for natives, _ in blocks for name in natives}
    native_names = {j: name for j, name in native_names.items() if name in used}
    layout = Layout(tuple(codings), tuple(tuple(s) for s in streams), tuple(names), own, native_names, with_preview, gain)
    _unify(blocks)
    natives = _natives(model, codings, native_names, with_preview, [arrays for arrays, _ in blocks])
    encoded = []
    for (arrays, parts), (_, n) in zip(blocks, spans, strict=True):
        payloads = {name: parts.get(name, b"") for name in own}
        if layout.pooled:
            payloads[POOL] = sections.pack(parts, layout.pooled)
        encoded.append(EncodedBlock(n, arrays, payloads))
    outcomes, bits = [], {}
    for plan, column, coding in zip(model.columns, columns, codings, strict=True):
        n_bytes = round(column.n_bytes + sum(e.bits for e in learned.get(plan.index, [])) / 8)
        outcomes.append(ColumnOutcome(plan.name, coding, n_bytes, column.reported_bytes))
        if coding == LEARNED and len(column.array):
            bits[plan.name] = 8 * n_bytes / len(column.array)
    rivals = {plan.name: column.rival for plan, column in zip(model.columns, columns, strict=True) if column.rival is not None}
    return EncodedShard(layout.to_json(), natives, layout.groups, tuple(encoded), tuple(outcomes), bits, rivals)


def _unify(blocks: Sequence[tuple[dict[str, pa.Array], dict[str, bytes]]]) -> None:
    """Give every native column one type over all blocks: the narrowest integers that hold them."""
    for name in blocks[0][0] if blocks else ():
        arrays = [natives[name] for natives, _ in blocks]
        if len({a.type for a in arrays}) < 2:
            continue
        ends = [pc.min_max(a) for a in arrays]
        low = min((e["min"].as_py() for e in ends if e["min"].is_valid), default=0)
        high = max((e["max"].as_py() for e in ends if e["max"].is_valid), default=0)
        _, tag = conventional.narrowed(np.array([low, high], np.int64))
        target = pa.from_numpy_dtype(np.dtype(("u1", "i1", "u2", "i2", "u4", "i4", "i8")[tag]))
        for natives, _ in blocks:
            natives[name] = natives[name].cast(target)


def _natives(
    model: Model, codings: Sequence[str], names: dict[int, str], with_preview: bool, blocks: Sequence[dict[str, pa.Array]]
) -> tuple[NativeColumn, ...]:
    latents: list[str] = []
    if with_preview and model.preview is not None:
        latents += model.preview.latent_names
    if LATENT in codings and model.distortion is not None:
        latents += model.distortion.latent_names
    found = [NativeColumn(name, "latent", _latent_encoding([arrays[name] for arrays in blocks]), None) for name in latents]
    for j, name in names.items():
        role = "verbatim" if model.columns[j].kind == "verbatim" else "coded"
        found.append(NativeColumn(name, role, conventional.parquet_encoding(codings[j].removeprefix(UNIFORM)), model.columns[j].name))
    return tuple(found)


def _latent_encoding(arrays: Sequence[pa.Array]) -> str:
    """The Parquet encoding that takes the fewest bytes for one latent over all blocks: what base.cost reckons with."""
    sizes = {encoding: sum(chunk_bytes(array, encoding, FAST) for array in arrays) for encoding in LATENT_ENCODINGS}
    likely = [encoding for encoding in LATENT_ENCODINGS if sizes[encoding] <= FAST_SPREAD * min(sizes.values()) + 256]
    if len(likely) == 1:
        return likely[0]
    return min(likely, key=lambda encoding: sum(chunk_bytes(array, encoding) for array in arrays))
