"""The best that columnar formats do with a column alone: the floor under learned codings, the measure of savings.

parquet-*   the column's own type in Parquet, zstd 19: a native column other engines can read and filter
codes-*     its codes, narrowed to the smallest integer type, in Parquet the same way; null where the state is no value
pco         pcodec level 12 over the codes that are values; states and misfits beside them
pco-raw     pcodec level 12 over the raw floats of a lossless column
zstd        zstd 19 over narrowed codes (tensors: images, embeddings)
elements    vectors element by element (`coders.nested.elements`): about what columns of their own take
ipc         the array itself as an Arrow stream in zstd 19: takes every type, the last resort
lattices    codes as multiples of hidden steps (`coders.lattices`). Stored like the others, but no part of the floor: it is our
            own transform, so nothing here ranks it, and its bytes are never what "conventional" is reported as
texts       texts end to end in bzip2 or xz (`coders.texts`): ours likewise
fields      texts as templates and fields (`coders.fields`): ours likewise
nested      lists, maps and structs as columns of what they hold (`coders.nested`): ours likewise
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pcodec import standalone

from vae_core.arrays import to_numpy
from vae_core.coders import fields, lattices, nested, texts
from vae_core.coders.narrow import NARROW, PCO
from vae_core.coders.narrow import narrowed as narrowed
from vae_core.coders.nested import elements
from vae_core.coders.parquet import ENCODINGS, chunk_bytes, from_native, native_of, survives
from vae_core.columns.codes import STATE_MISFIT, STATE_NULL, Codes
from vae_core.columns.joining import alike, fitted, one_array, wrapped
from vae_core.columns.physical import from_raw, is_integral, raw_values, storage_dtype
from vae_core.columns.plan import ColumnPlan, storage_type
from vae_core.columns.profile import elements_of, storage_of
from vae_core.columns.recode import decode_column, finish_column
from vae_core.columns.side import pack_side, unpack_side
from vae_core.errors import CorruptArchive
from vae_core.packing import chunks_from_ipc, to_ipc, unpco, unzstd, zstd

CODINGS = (
    *(f"parquet-{e}" for e in ENCODINGS),
    *(f"codes-{e}" for e in ENCODINGS),
    "pco",
    "pco-raw",
    "zstd",
    "elements",
    "ipc",
    "lattices",
    "texts",
    "fields",
    "nested",
)
_BY_VALUES = {"elements": elements, "texts": texts, "fields": fields, "nested": nested}
_RANK_CELLS = 1 << 20
STORED = 19
"""The zstd level of everything stored."""


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One column of one block, coded: a native column of latents.parquet, payload bytes, or both."""

    native: pa.Array | None
    payload: bytes | None


def parquet_encoding(coding: str) -> str:
    """The writer's option for the native column of a coding: "plain", "dictionary", "delta" or "split"."""
    encoding = coding.rpartition("-")[2]
    return encoding if encoding in ENCODINGS else "plain"


def candidates_for(plan: ColumnPlan) -> tuple[str, ...]:
    """Codings worth trying for a plan, before looking at the data."""
    found: list[str] = []
    storage = storage_type(plan.field.type)
    t = pa.types
    if plan.is_lossless:
        value = storage.value_type if t.is_dictionary(storage) else storage
        found += ["parquet-plain", "parquet-dictionary"]
        if t.is_nested(value) or is_integral(value) or _is_bytes(value):
            found.append("parquet-delta")
        if t.is_nested(value) or (is_integral(value) and not t.is_boolean(value)) or t.is_floating(value) or t.is_fixed_size_binary(value):
            found.append("parquet-split")
        if plan.width > 1:
            found = ["parquet-plain"]
    if plan.kind != "verbatim":
        if plan.width == 1:
            found += [f"codes-{e}" for e in ENCODINGS]
        else:
            found.append("zstd")
        found.append("pco")
        if plan.is_lossless and t.is_floating(plan.value_type) and not t.is_dictionary(storage):
            found.append("pco-raw")
    if plan.kind == "verbatim" and (t.is_nested(storage) or not found):
        found.append("ipc")
    return tuple(found)


def rank(
    plan: ColumnPlan, array: pa.Array | pa.ChunkedArray, codes: Codes | None, names: Sequence[str] | None = None
) -> list[tuple[str, int]]:
    """(coding, bytes) best first over the rows passed. Tensors beyond 2^20 cells are judged by their first rows.

    codes : of the array, None for a verbatim plan        names : only these codings, so far as there are any
    """
    flat = one_array(array)
    n_rows = len(flat)
    most = max(64, _RANK_CELLS // plan.width)
    if n_rows > most:
        flat = flat.slice(0, most)
        codes = None if codes is None else _head(plan, codes, most)
    wanted = [name for name in candidates_for(plan) if names is None or name in names]
    found = sizes(plan, flat, codes, wanted) or sizes(plan, flat, codes, ["ipc"])
    scale = n_rows / max(1, len(flat))
    return [(coding, round(n_bytes * scale)) for coding, n_bytes in sorted(found.items(), key=lambda pair: pair[1])]


def measure(plan: ColumnPlan, array: pa.Array | pa.ChunkedArray, codes: Codes | None, candidates: Sequence[str]) -> tuple[str, int]:
    """The best of the candidates and its bytes over all rows passed; "ipc" when none of them can hold the data."""
    flat = one_array(array)
    found = sizes(plan, flat, codes, candidates) or sizes(plan, flat, codes, ["ipc"])
    return min(found.items(), key=lambda pair: pair[1])


def sizes(plan: ColumnPlan, array: pa.Array, codes: Codes | None, candidates: Iterable[str], level: int = STORED) -> dict[str, int]:
    """Coding -> bytes over all rows passed, of the candidates that can hold the data; as they are stored at zstd level 19."""
    return Weighed(plan, array, codes).sizes(candidates, level)


class Weighed:
    """(n,) rows of a column and what they take by each coding. Nothing is coded twice, and what two codings have in common once.

    codes : of the array, None for a verbatim plan
    """

    def __init__(self, plan: ColumnPlan, array: pa.Array, codes: Codes | None) -> None:
        self.plan, self.array, self.codes = plan, array, codes
        self.payloads: dict[str, bytes] = {}
        """Of all rows, by the codings that have no native column, so far as they were weighed."""
        self._known: dict[tuple[str, int], int] = {}
        self._natives: dict[str, Stored | None] = {}
        self._side: bytes | None = None
        self._same: bool | None = None

    def sizes(self, candidates: Iterable[str], level: int = STORED) -> dict[str, int]:
        """Coding -> bytes, of the candidates that can hold the data. level: of zstd, where Parquet has it to do"""
        found = {coding: self._size(coding, level) for coding in candidates}
        return {coding: n_bytes for coding, n_bytes in found.items() if n_bytes is not None}

    def _size(self, coding: str, level: int) -> int | None:
        family, encoding = coding.partition("-")[0], parquet_encoding(coding)
        if self.codes is None and family in ("codes", "pco", "zstd", "lattices"):
            return None
        if family not in ("codes", "parquet"):
            key = (coding, STORED)
            if key not in self._known:
                self.payloads[coding] = encode(self.plan, coding, self.array, self.codes, self._sides()).payload or b""
                self._known[key] = len(self.payloads[coding])
            return self._known[key]
        stored = self._native("codes" if family == "parquet" and self._twins() else family)
        if stored is None or stored.native is None:
            return None
        key = (encoding if self._twins() else coding, level)
        if key not in self._known:
            self._known[key] = len(stored.payload or b"") + chunk_bytes(stored.native, encoding, level)
        return self._known[key]

    @property
    def plain_bytes(self) -> int:
        """Of the codes as Parquet gives them to zstd where it writes them plainly, 4 bytes each at least; 0 without any."""
        stored = None if self.codes is None else self._native("codes")
        return 0 if stored is None or stored.native is None else len(stored.native) * max(4, stored.native.type.bit_width // 8)

    def _sides(self) -> bytes:
        """States and misfits, for the codings that keep them in a payload."""
        if self._side is None:
            self._side = b"" if self.codes is None else pack_side(self.codes.state, self.codes.misfits)
        return self._side

    def _native(self, family: str) -> Stored | None:
        """What Parquet is given, None where it cannot hold the data."""
        if family not in self._natives:
            if family == "codes":
                self._natives[family] = encode(self.plan, "codes-plain", self.array, self.codes, self._sides())
            else:
                held = survives(self.plan, self.array)
                self._natives[family] = encode(self.plan, "parquet-plain", self.array, self.codes) if held else None
        return self._natives[family]

    def _twins(self) -> bool:
        """Whether values and codes are the same integers of 32 bits to Parquet, which has none that are narrower."""
        if self._same is None:
            kind = storage_type(self.plan.field.type)
            self._same = False
            if self.codes is not None and pa.types.is_integer(kind) and kind.bit_width <= 32 and self.plan.width == 1:
                raw, codes = self._native("parquet"), self._native("codes")
                if raw and codes and raw.native is not None and codes.native is not None and codes.payload is None:
                    self._same = bool(raw.native.cast(pa.int64()).equals(codes.native.cast(pa.int64())))
        return self._same


def encode(plan: ColumnPlan, coding: str, array: pa.Array | pa.ChunkedArray, codes: Codes | None, side: bytes | None = None) -> Stored:
    """One block of a column by one coding. Raises ValueError for a coding the plan cannot have.

    side : of the codes (`pack_side`), where it is known already
    """
    flat = one_array(array)
    family = coding.partition("-")[0]
    if coding == "ipc":
        return Stored(None, zstd(to_ipc(fitted(flat, plan.field.type))))
    if family == "parquet":
        return Stored(native_of(flat), None)
    if coding in _BY_VALUES:
        packed = _BY_VALUES[coding].pack(storage_of(flat))
        if packed is None:
            raise ValueError(f"column {plan.name!r} has nothing that {coding!r} can hold")
        return Stored(None, packed)
    if codes is None:
        raise ValueError(f"column {plan.name!r} has no codes: {coding!r} cannot hold it")
    if family == "codes":
        return _encode_codes(plan, codes, side)
    side = pack_side(codes.state, codes.misfits) if side is None else side
    if coding == "pco-raw":
        storage = storage_of(flat)
        v = raw_values(elements_of(storage) if plan.kind == "tensor" else storage)
        v = v if codes.state is None else v[codes.state == 0]
        body = standalone.simple_compress(np.ascontiguousarray(v), PCO)
        return Stored(None, bytes([0]) + len(side).to_bytes(4, "little") + side + body)
    values = codes.values if codes.state is None else codes.values[codes.state == 0]
    if coding == "lattices":
        return Stored(None, bytes([0]) + len(side).to_bytes(4, "little") + side + lattices.pack(values, lattices.floats_of(plan)))
    narrow, tag = narrowed(values)
    if coding == "pco":
        body = standalone.simple_compress(narrow, PCO)
    elif coding == "zstd":
        body = zstd(narrow.tobytes())
    else:
        raise ValueError(f"unknown coding {coding!r}")
    return Stored(None, bytes([tag]) + len(side).to_bytes(4, "little") + side + body)


def decode(plan: ColumnPlan, coding: str, stored: Stored, n_rows: int) -> pa.Array:
    """The inverse of `encode`: n_rows rows of plan.field.type, or `alike` (vae_core.columns.joining). Raises CorruptArchive."""
    array = _decode(plan, coding, stored, n_rows)
    if len(array) != n_rows or not alike(array.type, plan.field.type):
        raise CorruptArchive(f"column {plan.name!r} holds {len(array)} {array.type}, expected {n_rows} {plan.field.type}")
    return array


def decode_codes(plan: ColumnPlan, coding: str, stored: Stored, n_rows: int) -> Codes:
    """The codes of a column stored as codes-*, pco, zstd or lattices. Raises CorruptArchive."""
    n = n_rows * plan.width
    if coding.startswith("codes-"):
        return _decode_codes(plan, _needed(plan, stored.native), stored.payload, n)
    tag, side, body = _split(plan, stored.payload)
    state, misfits = unpack_side(side, n, plan.value_type)
    n_values = n if state is None else int((state == 0).sum())
    dtype = np.dtype(NARROW[tag])
    narrow: NDArray[Any]
    if coding == "lattices":
        narrow = lattices.unpack(body, n_values, lattices.floats_of(plan))
    elif coding == "pco":
        narrow = unpco(body, dtype, n_values)
    else:
        raw = unzstd(body, n_values * dtype.itemsize)
        if len(raw) != n_values * dtype.itemsize:
            raise CorruptArchive(f"column {plan.name!r} holds {len(raw)} bytes of codes, expected {n_values} {dtype}")
        narrow = np.frombuffer(raw, dtype)
    if state is None:
        return Codes(narrow.astype(np.int64, copy=False))
    values = np.full(n, plan.fill, np.int64)
    values[state == 0] = narrow
    return Codes(values, state, misfits)


def _encode_codes(plan: ColumnPlan, codes: Codes, side: bytes | None) -> Stored:
    if plan.width != 1:
        raise ValueError(f"column {plan.name!r} has {plan.width} values a row: codes-* holds one")
    values, state = codes.values, codes.state
    if state is None:
        narrow, _ = narrowed(values)
        return Stored(from_raw(_arrow_type(narrow.dtype), narrow, None), None)
    good = state == 0
    narrow, _ = narrowed(np.where(good, values, values[good][0] if good.any() else 0))
    native = from_raw(_arrow_type(narrow.dtype), narrow, good)
    if not bool((state > STATE_NULL).any()):
        return Stored(native, None)
    return Stored(native, pack_side(state, codes.misfits) if side is None else side)


def _decode_codes(plan: ColumnPlan, native: pa.Array, payload: bytes | None, n: int) -> Codes:
    if len(native) != n or not pa.types.is_integer(native.type):
        raise CorruptArchive(f"column {plan.name!r} holds {len(native)} {native.type} as codes, expected {n} integers")
    valid = None if native.null_count == 0 else to_numpy(native.is_valid())
    values = np.array(raw_values(native), np.int64)
    if payload:
        state, misfits = unpack_side(payload, n, plan.value_type)
        if state is None or not np.array_equal(state == 0, np.ones(n, np.bool_) if valid is None else valid):
            raise CorruptArchive(f"column {plan.name!r}: states and stored codes disagree")
    else:
        misfits = None
        state = None if valid is None else np.where(valid, np.uint8(0), np.uint8(STATE_NULL))
    if state is not None:
        values[state != 0] = plan.fill
    return Codes(values, state, misfits)


def _decode(plan: ColumnPlan, coding: str, stored: Stored, n_rows: int) -> pa.Array:
    if coding not in CODINGS:
        raise CorruptArchive(f"column {plan.name!r} is coded as {coding!r}, which this release does not know")
    if coding == "ipc":
        return one_array(chunks_from_ipc(unzstd(_needed(plan, stored.payload), 1 << 31), plan.field.type))
    if coding in _BY_VALUES:
        kind = plan.field.type
        return wrapped(kind, _BY_VALUES[coding].unpack(_needed(plan, stored.payload), storage_type(kind), n_rows))
    if coding.startswith("parquet-"):
        return from_native(plan, _needed(plan, stored.native))
    if plan.transform is None:
        raise CorruptArchive(f"column {plan.name!r} is verbatim and cannot be coded as {coding!r}")
    if coding == "pco-raw":
        return _decode_raw(plan, stored, n_rows)
    return decode_column(plan, decode_codes(plan, coding, stored, n_rows))


def _decode_raw(plan: ColumnPlan, stored: Stored, n_rows: int) -> pa.Array:
    n = n_rows * plan.width
    _, side, body = _split(plan, stored.payload)
    state, misfits = unpack_side(side, n, plan.value_type)
    dtype = storage_dtype(plan.value_type)
    if not pa.types.is_floating(plan.value_type):
        raise CorruptArchive(f"column {plan.name!r} is {plan.field.type} and cannot be raw floats")
    v = unpco(body, dtype, n if state is None else int((state == 0).sum()))
    if state is not None:
        whole = np.zeros(n, dtype)
        whole[state == 0] = v
        v = whole
    return finish_column(plan, v, state, misfits)


def _split(plan: ColumnPlan, payload: bytes | None) -> tuple[int, bytes, bytes]:
    """(index into NARROW, side, body) of a payload."""
    data = _needed(plan, payload)
    size = int.from_bytes(data[1:5], "little")
    if len(data) < 5 + size or data[0] >= len(NARROW):
        raise CorruptArchive(f"the payload of column {plan.name!r} is cut short")
    return data[0], data[5 : 5 + size], data[5 + size :]


def _needed(plan: ColumnPlan, part: Any) -> Any:
    if part is None:
        raise CorruptArchive(f"column {plan.name!r}: the part that holds it is missing")
    return part


def _head(plan: ColumnPlan, codes: Codes, n_rows: int) -> Codes:
    """The codes of the first rows."""
    n = n_rows * plan.width
    if codes.state is None:
        return Codes(codes.values[:n])
    state = codes.state[:n]
    misfits = None if codes.misfits is None else codes.misfits.slice(0, int((state == STATE_MISFIT).sum()))
    return Codes(codes.values[:n], state, misfits)


def _arrow_type(dtype: np.dtype[Any]) -> pa.DataType:
    return pa.from_numpy_dtype(dtype)


def _is_bytes(value_type: pa.DataType) -> bool:
    t = pa.types
    return bool(
        t.is_string(value_type) or t.is_large_string(value_type) or t.is_string_view(value_type)
        or t.is_binary(value_type) or t.is_large_binary(value_type) or t.is_binary_view(value_type)
        or t.is_fixed_size_binary(value_type) or t.is_decimal(value_type)
    )  # fmt: skip


def dictionary_bytes(plan: ColumnPlan, coding: str) -> int:
    """Bytes of the plan's dictionary or levels, which codes-*, pco, zstd and lattices need once per dataset beside what is measured."""
    if coding.startswith("parquet-") or coding in ("ipc", "pco-raw"):
        return 0
    return sum(len(blob) for blob in plan.blobs(as_fields=False).values())
