"""The plan of one column: which transform turns it into integers, and everything needed to turn it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from vae_core.coders.mixed import Mixing
from vae_core.columns.blobs import claimed, pack_numbers, pack_values, unpack_numbers, unpack_values
from vae_core.columns.dictionaries import Unread, ValueDictionary
from vae_core.columns.floats import Bins, DecimalLattice, FloatLevels, OrderedBits
from vae_core.columns.integers import IntegerLattice, IntegerLevels
from vae_core.columns.numerals import numerals_from_json
from vae_core.columns.physical import storage_dtype
from vae_core.columns.texts import TextPattern, is_text, pattern_from_json
from vae_core.columns.times import times_from_json
from vae_core.entropy.contextmix import MOST_BYTES
from vae_core.errors import CorruptArchive, UsageError
from vae_core.tolerance import LOSSLESS, Tolerance

KINDS = ("categorical", "numeric", "tensor", "verbatim")
MOST_WIDTH = 1 << 24

IntegerTransform = IntegerLattice | IntegerLevels
FloatTransform = DecimalLattice | Bins | FloatLevels | OrderedBits
Transform = IntegerTransform | FloatTransform | ValueDictionary | TextPattern


@dataclass(frozen=True, slots=True, eq=False)
class ColumnPlan:
    """How one column becomes int64 codes.

    name, index, field : the column, its position in the schema, its Arrow field
    kind      : "categorical" | "numeric" | "tensor" | "verbatim" (no codes at all)
    tolerance : resolved: lossless, absolute or rmse, in the column's units
    transform : None for verbatim
    n_levels  : number of codes when they are positions in a dictionary or list of levels, else None
    lo, hi    : smallest and largest code in the profile; later data may go beyond unless n_levels is set. 0 where
                no layer speaks of the column
    fill      : the code where a cell has none (null, NaN, misfit ...); lo <= fill <= hi
    width     : values a row
    has_state : the profile saw cells that are not plain values (a hint: every block tells by itself)
    opaque    : the codes are the bits of a float, or positions of unsorted values: nobody should regress on them
    """

    name: str
    index: int
    field: pa.Field
    kind: str
    tolerance: Tolerance = LOSSLESS
    transform: Transform | None = None
    n_levels: int | None = None
    lo: int = 0
    hi: int = 0
    fill: int = 0
    width: int = 1
    has_state: bool = False
    opaque: bool = False

    @property
    def value_type(self) -> pa.DataType:
        """The type of one value: of the tensor's elements, of the extension's storage, of the dictionary's values."""
        kind = storage_type(self.field.type)
        if self.kind == "tensor":
            return kind.value_type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    @property
    def is_measured(self) -> bool:
        """Whether a base layer may speak of the column: its codes are amounts, or few categories."""
        return self.kind in ("categorical", "numeric") and not self.opaque and not isinstance(self.transform, TextPattern)

    @property
    def is_lossless(self) -> bool:
        """True when decoded values are bit for bit the raw ones."""
        return self.tolerance.is_lossless

    def to_json(self) -> dict[str, Any]:
        """Small JSON; dictionaries and levels are in `blobs`, the field in the schema."""
        data: dict[str, Any] = {"name": self.name, "index": self.index, "kind": self.kind}
        if not self.tolerance.is_lossless:
            data["tolerance"] = self.tolerance.to_json()
        if self.transform is None:
            return data
        data["transform"] = self.transform.to_json()
        data["range"] = [self.lo, self.hi, self.fill]
        for key in ("has_state", "opaque"):
            if getattr(self, key):
                data[key] = True
        return data

    def unranged(self) -> ColumnPlan:
        """The plan of a column that no layer speaks of, where nothing but the transform tells."""
        return self if self.n_levels is not None else replace(self, lo=0, hi=0, fill=0)

    def blobs(self, *, as_fields: bool = True, mixing: Mixing | None = None) -> dict[str, bytes]:
        """The dictionary or levels, packed, by a name unique within the schema; empty for most plans.

        as_fields : whether texts may be, and numbers fractions; not where their bytes are what a conventional coding needs
        mixing    : how texts may be mixed, None where not
        """
        if isinstance(self.transform, ValueDictionary):
            return {f"column{self.index}": pack_values(self.transform.values, as_fields=as_fields, mixing=mixing)}
        if isinstance(self.transform, IntegerLevels | FloatLevels):
            return {f"column{self.index}": pack_numbers(self.transform.levels, as_fractions=as_fields)}
        return {}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], blobs: Mapping[str, bytes], schema: pa.Schema) -> ColumnPlan:
        """The inverse of `to_json` and `blobs`. Raises CorruptArchive on anything that no plan writes."""
        try:
            return cls._from_json(data, blobs, schema)
        except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError, UsageError) as error:
            raise CorruptArchive(f"the plan of column {data.get('name')!r} cannot be read: {error!r}") from None

    @classmethod
    def _from_json(cls, data: Mapping[str, Any], blobs: Mapping[str, bytes], schema: pa.Schema) -> ColumnPlan:
        index, name, kind = int(data["index"]), str(data["name"]), str(data["kind"])
        if not 0 <= index < len(schema) or schema.field(index).name != name or kind not in KINDS:
            raise CorruptArchive(f"the plan names column {name!r} at {index} as {kind!r}: not in the schema")
        item = schema.field(index)
        tolerance = Tolerance.from_json(data["tolerance"]) if "tolerance" in data else LOSSLESS
        if kind == "verbatim":
            return cls(name, index, item, kind, tolerance)
        storage = storage_type(item.type)
        width = storage.list_size if kind == "tensor" else 1
        if not 0 < width <= MOST_WIDTH:
            raise CorruptArchive(f"column {name!r} has {width} values a row")
        value_type = storage.value_type if kind == "tensor" else storage
        transform = transform_from_json(data["transform"], blobs.get(f"column{index}"), value_type)
        lo, hi, fill = (int(x) for x in data["range"])
        if not all(-(2**63) <= x < 2**63 for x in (lo, hi, fill)):
            raise CorruptArchive(f"column {name!r} has codes beyond int64")
        n_levels = levels_of(transform)
        if n_levels is not None and not 0 <= fill < n_levels:
            raise CorruptArchive(f"column {name!r} fills with code {fill} of {n_levels}")
        state, opaque = bool(data.get("has_state")), bool(data.get("opaque"))
        return cls(name, index, item, kind, tolerance, transform, n_levels, lo, hi, fill, width, state, opaque)


def storage_type(data_type: pa.DataType) -> pa.DataType:
    """The storage of an extension type, else the type."""
    while isinstance(data_type, pa.BaseExtensionType):
        data_type = data_type.storage_type
    return data_type


def levels_of(transform: Transform | None) -> int | None:
    """How many codes a transform knows, None when it is not a list."""
    if isinstance(transform, ValueDictionary):
        return len(transform)
    if isinstance(transform, IntegerLevels | FloatLevels):
        return len(transform.levels)
    return None


def transform_from_json(data: Mapping[str, Any], blob: bytes | None, value_type: pa.DataType) -> Transform:
    """The inverse of every transform's to_json, checked against the type it has to decode to."""
    tag = data["t"]
    if tag == "dictionary":
        inner = value_type.value_type if pa.types.is_dictionary(value_type) else value_type
        n, late = int(data["n"]), claimed(_needed(blob))
        if late is not None and not late == n <= MOST_BYTES:
            raise CorruptArchive(f"a dictionary claims {late} values, expected {n}")
        read = partial(_dictionary_values, _needed(blob), inner, n)
        held = read() if late is None else Unread(n, read)
        if pa.types.is_dictionary(value_type):
            return ValueDictionary(held, value_type.index_type, value_type.ordered)
        return ValueDictionary(held)
    if tag in ("digits", "numbers", "times"):
        if not is_text(value_type):
            raise CorruptArchive(f"a pattern of digits on {value_type}")
        if tag == "times":
            return times_from_json(data["f"])
        if tag == "numbers":
            return numerals_from_json(data["w"], data["b"], data["a"], *([data["c"]] if "c" in data else []))
        return pattern_from_json(data["p"], data.get("c", ""))
    if tag in ("lattice", "ilevels"):
        if pa.types.is_floating(value_type) or pa.types.is_dictionary(value_type):
            raise CorruptArchive(f"an integer transform on {value_type}")
        if tag == "ilevels":
            return IntegerLevels(unpack_numbers(_needed(blob), np.dtype(np.int64), _count(data["n"])))
        bound = None if data["b"] is None else int(data["b"])
        lattice = IntegerLattice(int(data["o"]), int(data["s"]), int(data["g"]), bound, bool(data.get("u")))
        if not (lattice.step > 0 and lattice.group > 0 and lattice.width < 2**63):
            raise CorruptArchive(f"a lattice of step {lattice.step} and group {lattice.group}")
        return lattice
    if not pa.types.is_floating(value_type):
        raise CorruptArchive(f"a float transform on {value_type}")
    dtype = storage_dtype(value_type)
    if np.dtype(data["f"]) != dtype:
        raise CorruptArchive(f"a transform to {data['f']} on {value_type}")
    if tag == "flevels":
        return FloatLevels(unpack_numbers(_needed(blob), dtype, _count(data["n"])))
    if tag == "bits":
        return OrderedBits(dtype.str, bool(data["w"]))
    most = None if data["b"] is None else float(data["b"])
    if tag == "bins":
        return Bins(dtype.str, float(data["w"]), most)
    if tag == "decimal":
        lattice_f = DecimalLattice(dtype.str, int(data["k"]), int(data["o"]), int(data["s"]), int(data["g"]), bool(data["w"]), most)
        small = 0 <= lattice_f.digits <= 22 and abs(lattice_f.offset) < 2**62
        if not (small and lattice_f.step > 0 and lattice_f.group > 0 and lattice_f.step * lattice_f.group < 2**62):
            raise CorruptArchive(f"a decimal lattice of step {lattice_f.step} and group {lattice_f.group}")
        return lattice_f
    raise CorruptArchive(f"unknown transform {tag!r}")


def _dictionary_values(blob: bytes, kind: pa.DataType, n: int) -> pa.Array:
    values = unpack_values(blob, kind)
    if len(values) != n or n == 0 or values.null_count:
        raise CorruptArchive(f"a dictionary holds {len(values)} values, expected {n}")
    return values


def _needed(blob: bytes | None) -> bytes:
    if blob is None:
        raise CorruptArchive("a dictionary is missing from the model")
    return blob


def _count(n: Any) -> int:
    if not 0 < int(n) <= MOST_WIDTH:
        raise CorruptArchive(f"a list of {n} levels")
    return int(n)
