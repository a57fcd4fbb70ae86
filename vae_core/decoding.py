"""A block back as a table: any columns, or a preview from latents alone. numpy, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core import sections
from vae_core.base import GAIN_UNIT
from vae_core.coders import conventional
from vae_core.coders.conventional import Stored
from vae_core.columns import STATE_MISFIT, Codes, ColumnPlan, decode_column, encode_column
from vae_core.columns.joining import fitted
from vae_core.columns.physical import raw_values
from vae_core.encoded import Needs
from vae_core.entropy import kernel
from vae_core.entropy.rans import Decoder
from vae_core.errors import CorruptArchive, UsageError
from vae_core.exact.above import unpack_above
from vae_core.exact.abreast import read_columns
from vae_core.exact.cells import code_column
from vae_core.exact.features import N_STATES, Decoded
from vae_core.exact.forms import known_as
from vae_core.exact.plans import ColumnCode
from vae_core.exact.tensors import code_tensors
from vae_core.layout import ABOVE, LATENT, LEARNED, POOL, Layout, uses_codes
from vae_core.model import Base, Model
from vae_core.packing import from_ipc, unzstd

MAX_MISFIT_BYTES = 1 << 30
CELLS_AT_ONCE = 1 << 23  # of blocks that are decoded together: 64 MiB of integers, and twice that of what is known of them


def _indices(model: Model, columns: Sequence[str] | None) -> list[int]:
    if columns is None:
        return list(range(len(model.columns)))
    by_name = {plan.name: plan.index for plan in model.columns}
    unknown = [name for name in columns if name not in by_name]
    if unknown:
        raise UsageError(f"no column {unknown[0]!r}; there are {', '.join(list(by_name)[:12])}")
    return [by_name[name] for name in columns]


def _closure(model: Model, layout: Layout, wanted: Sequence[int]) -> set[int]:
    """The wanted columns, what they are conditioned on, and what stands before them in their streams."""
    learned = model.learned
    found: set[int] = set()
    new = set(wanted)
    while new:
        found |= new
        reach: set[int] = set()
        for j in new:
            if layout.codings[j] == LEARNED:
                reach |= learned[j].columns
        for stream in layout.streams:
            places = [k for k, j in enumerate(stream) if j in found or j in reach]
            if places:
                reach |= set(stream[: places[-1] + 1])
        new = reach - found
    return found


def needs(model: Model, layout: Mapping[str, Any], columns: Sequence[str] | None, preview: bool) -> Needs:
    """The natives and payload groups that decode_block will ask for."""
    plan = Layout.from_json(layout, model)
    wanted = _indices(model, columns)
    if preview and plan.preview and model.preview is not None:
        latent = [j for j in wanted if plan.codings[j] == LATENT]
        exact, names = _exact_needs(model, plan, latent), set(model.preview.latent_names)
        return Needs(tuple(sorted(names | set(exact.natives))), exact.groups)
    return _exact_needs(model, plan, wanted)


def _exact_needs(model: Model, layout: Layout, wanted: Sequence[int]) -> Needs:
    found = _closure(model, layout, wanted)
    natives = {layout.native[j] for j in found if j in layout.native}
    wanted_sections = {f"{kind}{j}" for j in found for kind in "cmn"} & set(layout.sections)
    wanted_sections |= {f"s{k}" for k, stream in enumerate(layout.streams) if found & set(stream)}
    if any(layout.codings[j] == LATENT for j in found) and model.distortion is not None:
        natives |= set(model.distortion.latent_names)
    if _read_above(model, layout, found) and ABOVE in layout.sections:
        wanted_sections.add(ABOVE)
    groups = {layout.group_of(s) for s in wanted_sections}
    return Needs(tuple(sorted(natives)), tuple(g for g in layout.groups if g in groups))


def _read_above(model: Model, layout: Layout, found: set[int]) -> bool:
    """Whether columns that are read are told by rows above."""
    return any(code.reads_above and code.column in found and layout.codings[code.column] == LEARNED for code in model.codes)


def decode_block(
    model: Model,
    layout: Mapping[str, Any],
    n_rows: int,
    natives: Mapping[str, pa.Array],
    payloads: Mapping[str, bytes],
    columns: Sequence[str] | None = None,
    preview: bool = False,
) -> pa.Table:
    """(n_rows, columns) of one block with the model's exact fields, in the order asked for.

    A dictionary column of more values than its indices reach comes in several chunks.
    preview : learned columns from the latents alone, all other columns null. Without latents in the shard, exact.
    Raises CorruptArchive when the stored bytes cannot be what an encoder wrote, UsageError on an unknown column.
    """
    return next(decode_blocks(model, layout, [n_rows], [natives], [payloads], columns, preview))


def decode_blocks(
    model: Model,
    layout: Mapping[str, Any],
    n_rows: Sequence[int],
    natives: Sequence[Mapping[str, pa.Array]],
    payloads: Sequence[Mapping[str, bytes]],
    columns: Sequence[str] | None = None,
    preview: bool = False,
) -> Iterator[pa.Table]:
    """As decode_block of several blocks of a shard: without the kernel together takes less time than one after another."""
    plan = Layout.from_json(layout, model)
    wanted = _indices(model, columns)
    schema = pa.schema([model.schema.field(j) for j in wanted], metadata=model.schema.metadata)
    blocks = [_Block(model, plan, *block) for block in zip(n_rows, natives, payloads, strict=True)]
    if preview and plan.preview and model.preview is not None:
        base = model.preview
        found: Iterator[dict[int, pa.Array]] = (block.preview(base, wanted) for block in blocks)
    else:
        found = _exact(model, plan, blocks, wanted)
    for arrays in found:
        yield pa.Table.from_arrays([fitted(arrays[j], model.schema.field(j).type) for j in wanted], schema=schema)


def blocks_at_once(model: Model, block_rows: int) -> int:
    """How many blocks of so many rows are best decoded together: where steps are dear, as many as little memory holds."""
    n_cells = block_rows * sum(plan.width for plan in model.columns)
    return 1 if kernel.available() or not model.codes else max(1, CELLS_AT_ONCE // max(1, n_cells))


def _exact(model: Model, layout: Layout, blocks: Sequence[_Block], wanted: Sequence[int]) -> Iterator[dict[int, pa.Array]]:
    """Arrays of the wanted columns, block by block."""
    together = len(blocks) > 1 and not kernel.available()
    found = _closure(model, layout, wanted)
    streams = {j: k for k, stream in enumerate(layout.streams) for j in stream}
    for some in [blocks] if together else [[block] for block in blocks]:
        for block in some:
            block.begin(found)
        for code in model.codes:
            if code.column not in found:
                continue
            if code.column not in streams:
                for block in some:
                    block.give(code)
            elif together:
                channels = [block.channels[streams[code.column]] for block in some]
                for block, (values, state) in zip(some, read_columns(channels, code, [block.decoded for block in some]), strict=True):
                    block.codes[code.column] = Codes(values, state, block.misfits(code.column, state))
            else:
                block = some[0]
                values, state = code_column(block.channels[streams[code.column]], code, block.decoded, None, None)
                block.codes[code.column] = Codes(values, state, block.misfits(code.column, state))
        for block in some:
            yield block.finished(found, wanted)


class _Block:
    def __init__(
        self, model: Model, layout: Layout, n_rows: int, natives: Mapping[str, pa.Array], payloads: Mapping[str, bytes]
    ) -> None:
        self.model, self.layout, self.n_rows, self.natives, self.payloads = model, layout, n_rows, natives, payloads
        self.pool: dict[str, bytes] | None = None
        self.decoded = Decoded(n_rows)
        self._latent: dict[int, NDArray[np.int64]] | None = None

    def section(self, name: str) -> bytes:
        """The bytes of a section, empty when the shard has none of that name."""
        if name not in self.layout.sections:
            return b""
        group = self.layout.group_of(name)
        if group not in self.payloads:
            raise CorruptArchive(f"payload group {group} is missing from a block")
        if group != POOL:
            return self.payloads[group]
        if self.pool is None:
            self.pool = sections.unpack(self.payloads[POOL], self.layout.pooled, fixed=self.layout.fixed)
        return self.pool[name]

    def begin(self, found: set[int]) -> None:
        """Decode the columns that are in no stream, and open the streams of the others."""
        self.arrays: dict[int, pa.Array] = {}
        self.codes: dict[int, Codes] = {}
        for j in sorted(found):
            if self.layout.codings[j] == LATENT:
                self.arrays[j] = decode_column(self.model.columns[j], self._latent_codes(j), approximate=True)
            elif self.layout.codings[j] != LEARNED:
                self.arrays[j] = self._conventional(j)
        if _read_above(self.model, self.layout, found):
            self.decoded.above = unpack_above(self.section(ABOVE), self.n_rows)
        self.channels = {k: Decoder(self.section(f"s{k}")) for k, stream in enumerate(self.layout.streams) if found & set(stream)}

    def give(self, code: ColumnCode) -> None:
        """Make a column known that no stream holds."""
        given = self._given_codes(code.column, self.arrays[code.column])
        self.decoded.values[code.column] = known_as(code.form, given.values)
        self.decoded.states[code.column] = given.state

    def finished(self, found: set[int], wanted: Sequence[int]) -> dict[int, pa.Array]:
        """Arrays of the wanted columns, once those that are coded by one another are read."""
        streams = {j: k for k, stream in enumerate(self.layout.streams) for j in stream}
        for tensor in self.model.tensors:
            if tensor.column in found and tensor.column in streams:
                values, state = code_tensors(self.channels[streams[tensor.column]], tensor, self.n_rows, None, None)
                self.codes[tensor.column] = Codes(values, state, self.misfits(tensor.column, state))
        for k, channel in self.channels.items():
            if set(self.layout.streams[k]) <= found:
                channel.finish()
        for j in wanted:
            if j not in self.arrays:
                self.arrays[j] = decode_column(self.model.columns[j], self.codes[j])
        return self.arrays

    def _stored(self, j: int) -> Stored:
        name = self.layout.native.get(j)
        if name is not None and name not in self.natives:
            raise CorruptArchive(f"native column {name!r} is missing from a block")
        payload = self.section(f"c{j}")
        return Stored(None if name is None else self.natives[name], payload or None)

    def _conventional(self, j: int) -> pa.Array:
        plan, coding = self.layout.conventional(self.model, j)
        return conventional.decode(plan, coding, self._stored(j), self.n_rows)

    def _given_codes(self, j: int, array: pa.Array) -> Codes:
        """The codes of a column that no stream holds, as its encoder saw them."""
        plan, coding = self.model.columns[j], self.layout.codings[j]
        if uses_codes(coding):
            return conventional.decode_codes(plan, coding, self._stored(j), self.n_rows)
        return encode_column(plan, array)

    def misfits(self, j: int, state: NDArray[np.uint8] | None) -> pa.Array | None:
        """The misfits of a column whose states these are."""
        count = 0 if state is None else int((state == STATE_MISFIT).sum())
        data = self.section(f"m{j}")
        if not count and not data:
            return None
        plan = self.model.columns[j]
        values = unpack_misfits(plan, data)
        if len(values) != count:
            raise CorruptArchive(f"column {plan.name!r} has {count} misfits in its states and {len(values)} stored")
        return values

    def _latent_codes(self, j: int) -> Codes:
        base = self.model.distortion
        assert base is not None
        if self._latent is None:
            self._latent = self._from_latents(base, self.layout.gain)
        packed, plan = self.section(f"n{j}"), self.model.columns[j]
        state: NDArray[np.uint8] | None = None
        if packed:
            n_cells = self.n_rows * plan.width
            try:
                state = np.frombuffer(unzstd(packed, n_cells), np.uint8)
            except CorruptArchive as error:
                raise CorruptArchive(f"states of column {plan.name!r}: {error}") from error
            if len(state) != n_cells or (state >= N_STATES).any():
                raise CorruptArchive(f"states of column {plan.name!r} are not one for each of {n_cells} cells")
        return Codes(self._latent[j], state, self.misfits(j, state))

    def _from_latents(self, base: Base, gain: int) -> dict[int, NDArray[np.int64]]:
        missing = [name for name in base.latent_names if name not in self.natives]
        if missing:
            raise CorruptArchive(f"latent column {missing[0]!r} is missing from a block")
        latents = [self.natives[name] for name in base.latent_names]
        if odd := [a for a in latents if not pa.types.is_integer(a.type) or a.null_count]:
            raise CorruptArchive(f"latents are {odd[0].type}{' with nulls' if odd[0].null_count else ''}, not integers")
        if len({a.type for a in latents}) > 1:
            raise CorruptArchive("latents are of several types")
        z = np.stack([raw_values(a) for a in latents], axis=1)
        predicted = base.layer.decode(z, gain)
        found: dict[int, NDArray[np.int64]] = {}
        first = 0
        for j in base.columns:
            width = self.model.columns[j].width
            found[j] = np.ascontiguousarray(predicted[:, first : first + width]).ravel()
            first += width
        return found

    def preview(self, base: Base, wanted: Sequence[int]) -> dict[int, pa.Array]:
        guessed = self._from_latents(base, GAIN_UNIT)
        latent = [j for j in wanted if self.layout.codings[j] == LATENT]
        exact = next(_exact(self.model, self.layout, [self], latent))
        arrays: dict[int, pa.Array] = {}
        for j in wanted:
            plan = self.model.columns[j]
            if j in guessed:
                arrays[j] = decode_column(plan, Codes(guessed[j], None, None), approximate=True)
            else:
                arrays[j] = exact[j] if j in exact else pa.nulls(self.n_rows, plan.field.type)
        return arrays


def unpack_misfits(plan: ColumnPlan, data: bytes) -> pa.Array:
    """The inverse of latents.pack_misfits. Raises CorruptArchive."""
    try:
        return from_ipc(unzstd(data, MAX_MISFIT_BYTES), plan.value_type)
    except CorruptArchive as error:
        raise CorruptArchive(f"misfits of column {plan.name!r}: {error}") from error
