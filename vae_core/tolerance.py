"""How far a decoded value may be from the raw one, asked for per column.

lossless        every bit comes back
absolute        |decoded - raw| <= value, in the column's own units (ticks for dates, times and durations)
relative        the same, value being a fraction of the column's range (max - min of its finite values)
rmse            root mean square error over the column <= value: latents alone, no corrections
rmse_relative   the same, value being a fraction of the range
psnr            peak signal to noise ratio >= value decibels, turned into an rmse
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Protocol

import pyarrow as pa

from vae_core.errors import BadInput, UsageError

KINDS = ("lossless", "absolute", "relative", "rmse", "rmse_relative", "psnr")


class Ranged(Protocol):
    """What `resolve` needs to know of a column: its type and the span of its finite values."""

    @property
    def value_range(self) -> float | int: ...

    @property
    def value_type(self) -> pa.DataType: ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One column's tolerance.

    kind  : one of KINDS
    value : column units, fraction of the range (0.01 for '1%') or decibels, by kind; 0 for lossless
    """

    kind: str
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"tolerance kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if not math.isfinite(self.value) or self.value < 0:
            raise UsageError(f"tolerance {self.value!r} is not a finite number >= 0")

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """Read one SPEC: '0.05', '1%', 'rmse:0.02', 'rmse:3%', 'psnr:30', 'lossless'. Raises UsageError."""
        spec = text.strip().lower()
        if spec in ("lossless", "exact"):
            return LOSSLESS
        head, colon, tail = spec.partition(":")
        if colon and head not in ("rmse", "psnr", "abs", "absolute"):
            raise UsageError(f"tolerance {text!r}: {head!r} is not known; use a number, 1%, rmse:, psnr: or lossless")
        number = tail.strip() if colon else spec
        percent = number.endswith("%")
        try:
            value = float(number.rstrip("%")) if number.count("%") <= 1 else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or "_" in number:
            raise UsageError(f"tolerance {text!r}: {number!r} is not a number >= 0 (examples: 0.05, 1%, rmse:3%, psnr:30)")
        if percent:
            value = float(f"{number.rstrip('%').strip()}e-2") if "e" not in number else value / 100
        if head == "psnr" and colon:
            if percent or value == 0:
                raise UsageError(f"tolerance {text!r}: psnr is in decibels and above 0 (example: psnr:30)")
            return cls("psnr", value)
        if value == 0:
            return LOSSLESS
        if head == "rmse" and colon:
            return cls("rmse_relative" if percent else "rmse", value)
        return cls("relative" if percent else "absolute", value)

    @property
    def is_distortion(self) -> bool:
        """True for the kinds that bound the whole column, not each value: stored as latents alone."""
        return self.kind in ("rmse", "rmse_relative", "psnr")

    @property
    def is_lossless(self) -> bool:
        """True when nothing may change."""
        return self.kind == "lossless" or (self.value == 0 and self.kind != "psnr")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {"kind": self.kind, "value": self.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tolerance:
        """The inverse of `to_json`."""
        return cls(str(data["kind"]), float(data["value"]))

    def __str__(self) -> str:
        match self.kind:
            case "lossless":
                return "lossless"
            case "absolute":
                return f"{self.value:g}"
            case "relative":
                return f"{self.value * 100:g}%"
            case "rmse":
                return f"rmse:{self.value:g}"
            case "rmse_relative":
                return f"rmse:{self.value * 100:g}%"
        return f"psnr:{self.value:g}"


LOSSLESS = Tolerance("lossless", 0.0)
MOST_NAMED = 20  # columns, in a message


def value_type_of(data_type: pa.DataType) -> pa.DataType:
    """The type of one value: the element of a fixed-size list or tensor, the storage of an extension type."""
    while True:
        if isinstance(data_type, pa.BaseExtensionType):
            data_type = data_type.storage_type
        elif pa.types.is_fixed_size_list(data_type):
            data_type = data_type.value_type
        else:
            return data_type


def _takes_tolerance(value_type: pa.DataType) -> bool:
    t = pa.types
    return bool(
        t.is_integer(value_type)
        or t.is_floating(value_type)
        or t.is_decimal(value_type)
        or (t.is_temporal(value_type) and not t.is_interval(value_type))
    )


def parse_tolerances(specs: Sequence[str], schema: pa.Schema, groups: Mapping[str, Sequence[str]] | None = None) -> dict[str, Tolerance]:
    """Read 'column=SPEC' strings against a schema; '*' means every float column, float tensors included.

    groups : names of several columns together
    A named column beats '*', wherever it stands. Columns that nothing names are absent: they are lossless.
    Raises UsageError naming the spec or the column, BadInput on duplicated column names.
    """
    if len(set(schema.names)) != len(schema.names):
        twice = next(n for i, n in enumerate(schema.names) if n in schema.names[:i])
        raise BadInput(f"column name {twice!r} occurs more than once in the schema: rename one of them")
    everywhere: Tolerance | None = None
    named: dict[str, Tolerance] = {}
    together: list[tuple[str, Tolerance]] = []
    for spec in specs:
        name, equals, text = spec.rpartition("=")
        if not equals:
            raise UsageError(f"tolerance {spec!r} is not COLUMN=SPEC (examples: temp=0.05, '*=1%')")
        try:
            tolerance = Tolerance.parse(text)
        except UsageError as error:
            raise UsageError(f"{spec!r}: {error}") from None
        if name not in schema.names and name.strip() in (*schema.names, *(groups or ()), "*"):
            name = name.strip()
        if name == "*" and "*" not in schema.names:
            everywhere = tolerance
            continue
        if name not in schema.names and groups is not None and name in groups:
            if not groups[name] and not tolerance.is_lossless:
                raise UsageError(f"tolerance {spec!r}: {name!r} has no floats in it; name the member that is meant")
            together.append((name, tolerance))
            continue
        if name not in schema.names:
            known = [known for known in (*(groups or ()), *schema.names) if ":" not in known]
            more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
            raise UsageError(f"tolerance {spec!r}: there is no column {name!r}; columns are {', '.join(known[:MOST_NAMED])}{more}")
        value_type = value_type_of(schema.field(name).type)
        if not tolerance.is_lossless and not _takes_tolerance(value_type):
            raise UsageError(f"tolerance {spec!r}: column {name!r} is {schema.field(name).type}, which is kept exactly")
        named[name] = tolerance
    result: dict[str, Tolerance] = {}
    inherited: dict[str, Tolerance] = {}
    for name, tolerance in sorted(together, key=lambda one: len(one[0])):  # a struct in a struct beats the one around it
        inherited |= dict.fromkeys((groups or {})[name], tolerance)
    for field in schema:
        if field.name in named or field.name in inherited:
            result[field.name] = named.get(field.name) or inherited[field.name]
        elif everywhere is not None and pa.types.is_floating(value_type_of(field.type)):
            result[field.name] = everywhere
    return result


def resolve(tol: Tolerance, column_profile: Ranged) -> Tolerance:
    """Turn fractions of a range and decibels into column units, by the profile's range of finite values.

    relative -> absolute; rmse_relative and psnr -> rmse, to eight digits, rounded down. The psnr peak is 255 for uint8, else the range.
    A range of 0 (constant or empty column) makes the column lossless.
    """
    if tol.kind in ("lossless", "absolute", "rmse"):
        return LOSSLESS if tol.value == 0 else tol
    span = column_profile.value_range
    if tol.kind == "psnr":
        peak = 255 if pa.types.is_uint8(column_profile.value_type) else span
        value = float(peak) / 10 ** (tol.value / 20)
        kind = "rmse"
    else:
        value = min(tol.value * float(span), 1.7e308)
        kind = "absolute" if tol.kind == "relative" else "rmse"
    return LOSSLESS if value == 0 or not math.isfinite(value) else Tolerance(kind, short_below(value, 8))


def usual_width(bound: float) -> float:
    """The width of bins whose middles are no further than a bound from what is in them: nearly twice that, in five digits."""
    return short_below(2 * bound * (1 - 2.0**-24), 5)


def short_below(value: float, n_digits: int) -> float:
    """The largest number of so many decimal digits that is not above a positive one: of very many columns, all digits weigh."""
    exact = Decimal(repr(value))
    unit = Decimal(1).scaleb(exact.adjusted() + 1 - n_digits)
    short = float((exact / unit).to_integral_value(ROUND_FLOOR) * unit)
    return short if 0 < short <= value else value
