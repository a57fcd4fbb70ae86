"""The JSON of a model's plan without what its reader knows anyway: names, places, sizes, defaults; edges as differences.

Both directions are JSON to JSON. What comes back is what `Model.from_files` checks; here only the shape has to hold.
FORMAT.md, section "Model files".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from vae_core.errors import CorruptArchive
from vae_core.exact import digits as schemes
from vae_core.tolerance import usual_width

TRANSFORMS = {
    "lattice": "osgbu", "ilevels": "n", "decimal": "fkosgwb", "bins": "fwb", "flevels": "fn", "bits": "fw", "dictionary": "n",
    "digits": "pc", "numbers": "wbac", "times": "f",
}  # fmt: skip
OPTIONAL = "uc"  # the last of a transform's keys
LISTS = ("ilevels", "flevels", "dictionary")
FLAGS = ("has_state", "opaque")
STATES = [["direct", 0, 7, 0], None, [[[], [16]]], 1024]
SIZES = {"state": 7, "step": 21, "spread": 65, "level": 7, "fraction": 8, "noise": 48, "match": 40, "rough": 48, "apart": 48, "around": 48,
         "off": 48}  # fmt: skip
OF_COLUMN = ("value", "bins", "state", "before", "step", "phase", "among")
EDGELESS = ("value", *SIZES)
WITH_NONE = ("left", "right", "between", "back", "above")
PLACED = ("back", "above")
NUMBERED = ("match", "rough")
MOST_BOUND = 2.0**1023
USUAL_WIDTH, ITS_BOUND = 0, 1  # of bins; for a tolerance


def shorten(plan: Mapping[str, Any], blobs: Mapping[str, bytes]) -> tuple[dict[str, Any], bytes]:
    """(the plan in short, the blobs of all columns one after another)."""
    parts: list[bytes] = []
    short = dict(plan)
    short["columns"] = [_short_column(column, blobs, "", parts) for column in plan["columns"]]
    if "uniform" in plan:
        short["uniform"] = [[c["index"], *_short_column(c, blobs, "uniform.", parts)] for c in plan["uniform"]]
    short["codes"] = [_short_code(code) for code in plan["codes"]]
    if plan.get("tensors"):
        short["tensors"] = [
            [column, planes, [_short_code(code) for code in codes], *rest] for column, planes, codes, *rest in plan["tensors"]
        ]
    else:
        short.pop("tensors", None)
    return short, b"".join(parts)


def blob_bytes(short: Mapping[str, Any]) -> int:
    """How long the blobs of all columns are together, by the shortened plan. Raises CorruptArchive where it is nothing of the kind."""
    total = 0
    try:
        for column in (*short["columns"], *(column[1:] for column in short.get("uniform", []))):
            about = column[1] if len(column) > 1 else None
            total += max(0, int(about[-1])) if about and about[0] in LISTS else 0
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise CorruptArchive(f"model cannot be read: {type(error).__name__}: {str(error)[:120]}") from error
    return total


def spell_out(short: Mapping[str, Any], names: Sequence[str], blob: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The inverse of `shorten`, for a schema of these names. Raises CorruptArchive where it is nothing of the kind."""
    try:
        plan, blobs, rest = dict(short), dict[str, bytes](), blob
        if len(short["columns"]) != len(names):
            raise CorruptArchive(f"model plans {len(short['columns'])} columns for a schema of {len(names)}")
        plan["columns"], plan["uniform"] = [], []
        for j, column in enumerate(short["columns"]):
            rest = _long_column(plan["columns"], j, column, names, ("", blobs, rest))
        for j, *column in short.get("uniform", []):
            rest = _long_column(plan["uniform"], j, column, names, ("uniform.", blobs, rest))
        if rest:
            raise CorruptArchive(f"model holds {len(rest)} bytes that belong to no column")
        plan["codes"] = [_long_code(code, plan["columns"]) for code in short["codes"]]
        plan["tensors"] = [
            [column, planes, [_long_code(code, plan["columns"], column) for code in codes], *rest]
            for column, planes, codes, *rest in short.get("tensors", [])
        ]
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise CorruptArchive(f"model cannot be read: {type(error).__name__}: {str(error)[:120]}") from error
    return plan, blobs


def _short_column(column: Mapping[str, Any], blobs: Mapping[str, bytes], start: str, parts: list[bytes]) -> list[Any]:
    transform = column.get("transform")
    about: list[Any] | None = None
    if transform is not None:
        kind = transform["t"]
        about = [kind, *(transform[key] for key in TRANSFORMS[kind] if key in transform)]
        if kind in LISTS:
            parts.append(blobs[f"{start}column{column['index']}"])
            about.append(len(parts[-1]))
        if kind == "bins" and _is_bound(transform["b"]) and transform["w"] == usual_width(transform["b"]):
            about[2] = USUAL_WIDTH
    flags = sum(1 << k for k, key in enumerate(FLAGS) if column.get(key))
    tolerance = column.get("tolerance")
    if transform is not None and _is_bound(transform.get("b")) and tolerance == _bound_of(column):
        tolerance = ITS_BOUND
    short = [column["kind"], about, column.get("range"), flags, tolerance]
    while len(short) > 1 and not short[-1]:
        short.pop()
    return short


def _bound_of(column: Mapping[str, Any]) -> dict[str, Any]:
    """The bound of a column's transform as a tolerance. Raises CorruptArchive where it has none."""
    bound = column.get("transform", {}).get("b")
    if not _is_bound(bound):
        raise CorruptArchive(f"model says that something of column {column['name']!r} follows from its bound, but it has none")
    return {"kind": "absolute", "value": bound}


def _is_bound(bound: Any) -> bool:
    return isinstance(bound, float) and 0 < bound < MOST_BOUND


def _long_column(
    columns: list[Any], j: int, short: list[Any], names: Sequence[str], blobs: tuple[str, dict[str, bytes], bytes]
) -> bytes:
    """Append column j spelt out, move its blob, and return the bytes that are left."""
    start, found, rest = blobs
    kind, about, span, flags, tolerance = short + [None] * (5 - len(short))
    if not 0 <= j < len(names):
        raise CorruptArchive(f"model plans column {j} of {len(names)}")
    column = {"name": names[j], "index": j, "kind": kind}
    if about is not None:
        tag, *values = about
        if tag in LISTS:
            n_bytes = values.pop()
            if not 0 <= n_bytes <= len(rest):
                raise CorruptArchive(f"model holds {len(rest)} bytes where column {names[j]!r} has {n_bytes}")
            found[f"{start}column{j}"], rest = rest[:n_bytes], rest[n_bytes:]
        if not len(TRANSFORMS[tag].rstrip(OPTIONAL)) <= len(values) <= len(TRANSFORMS[tag]):
            raise CorruptArchive(f"model describes a {tag} by {len(values)} numbers")
        column["transform"] = {"t": tag, **dict(zip(TRANSFORMS[tag], values, strict=False))}
        if tag == "bins" and values[1] == USUAL_WIDTH:
            column["transform"]["w"] = usual_width(_bound_of(column)["value"])
        column["range"] = span
    if tolerance is not None:
        column["tolerance"] = _bound_of(column) if tolerance == ITS_BOUND else tolerance
    columns.append(column | {key: True for k, key in enumerate(FLAGS) if (flags or 0) >> k & 1})
    return rest


def _short_code(code: list[Any]) -> list[Any]:
    column, _, form, state, value, *more = code
    recall = [[keys, _short_plan(plan), *unit] for keys, plan, *unit in more]
    return [column, int(form), 0 if state == STATES else _short_plan(state), _short_plan(value), *recall]


def _long_code(short: list[Any], columns: list[Any], of: int | None = None) -> list[Any]:
    """of : the dataset column that the code is of, where it is of a plane of tensors"""
    column, form, state, value, *more = short
    recall = [[keys, _long_plan(plan), *unit] for keys, plan, *unit in more]
    fill = columns[column if of is None else of]["range"][2]
    return [column, fill, form, STATES if state == 0 else _long_plan(state), _long_plan(value), *recall]


def _short_plan(plan: list[Any]) -> list[Any]:
    scheme, prediction, digits, *rest = plan
    return [scheme, prediction, [[[_short_feature(f) for f in found[k:]], w] for k, (found, w) in _numbered(digits)], *rest]


def _long_plan(short: list[Any]) -> list[Any]:
    scheme, prediction, digits, *rest = short
    first = ["digit", -1, 0, schemes.from_json(scheme).sizes[0], []]
    return [scheme, prediction, [[[first][:k] + [_long_feature(f) for f in found], w] for k, (found, w) in _numbered(digits)], *rest]


def _numbered(digits: list[Any]) -> Iterator[tuple[int, Any]]:
    """The one or two digits of a plan, with how many features of theirs go without saying."""
    if len(digits) > 2:
        raise CorruptArchive(f"model codes a column by {len(digits)} digits")
    return enumerate(digits)


def _short_feature(feature: list[Any]) -> list[Any]:
    kind, column, lo, size, edges = feature
    short = [kind, column] if kind in OF_COLUMN else [kind]
    if kind in ("value", "place"):
        return [*short, lo, size]
    if kind == "class":
        return [*short, size, edges]
    if kind == "phase":
        return [*short, lo, size, *edges]
    if kind in NUMBERED:
        return [*short, lo]
    if kind == "among":
        short += [lo, size]
    if kind in PLACED:
        short.append(lo)
    return short if kind in EDGELESS else [*short, edges[:1] + [high - low for low, high in pairwise(edges)]]


def _long_feature(short: list[Any]) -> list[Any]:
    kind, *rest = short
    column = rest.pop(0) if kind in OF_COLUMN else -1
    if kind in ("value", "place"):
        lo, size = rest
        return [kind, column, lo, size, []]
    if kind == "phase":
        lo, size, start = rest
        return [kind, column, lo, size, [start]]
    if kind == "class":
        size, levels = rest
        return [kind, column, len(levels), size, levels]
    if kind in NUMBERED:
        [lo] = rest
        return [kind, column, lo, SIZES[kind], []]
    if kind in EDGELESS:
        return [kind, column, 0, SIZES[kind], []]
    size = int(rest.pop(1)) if kind == "among" else None
    lo, steps = rest if kind in (*PLACED, "among") else (0, *rest)
    if not all(isinstance(step, int) for step in steps):
        raise CorruptArchive("model describes bins by edges that are no integers")
    edges = list(accumulate(steps))
    return [kind, column, lo, len(edges) + 1 + (kind in WITH_NONE) if size is None else size, edges]
