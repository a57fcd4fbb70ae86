"""One schema for all files of a source: they agree on it, or an error says which file and which field do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from storage.errors import BadInput
from storage.formats.contract import Outline
from storage.objects import ObjectInfo

# Written by libraries about their own ways of reading; they differ between files of one table for no reason of its data.
BOOKKEEPING = frozenset({b"pandas", b"ARROW:schema", b"PARQUET:field_id"})
WIDEN = "--widen (in the form: Widen types) would join them"


@dataclass(frozen=True, slots=True)
class Claim:
    """The schema one file states (or, `inferred`, the one its first values suggest). `where` names it in messages."""

    where: str
    schema: pa.Schema
    inferred: bool = False
    optional_fields: bool = False


def agree(claims: Sequence[Claim], *, widen: bool = False) -> pa.Schema:
    """The schema of all claims; metadata is the first file's (`other_metadata` says what that leaves out).

    Names and their order, types and nullability must be equal. What is merely inferred may still fill gaps: a column
    of empty values takes the others' type, and keys of JSON objects may be missing. `widen` also allows narrower
    integers and floats, integers in a float column, empty columns and nullable fields to join the wider side.
    Raises BadInput.
    """
    for claim in claims:
        refuse_duplicate_names(claim.schema, claim.where)
    first = claims[0]
    fields = list(first.schema)
    stated_by = dict.fromkeys(first.schema.names, first.where)
    for claim in claims[1:]:
        if claim.optional_fields and first.optional_fields:
            for field in claim.schema:
                if field.name not in stated_by:
                    fields.append(field)
                    stated_by[field.name] = claim.where
        else:
            _same_names([field.name for field in fields], claim, first.where)
        for i, field in enumerate(fields):
            position = claim.schema.get_field_index(field.name)
            if position < 0:
                continue
            other = claim.schema.field(position)
            joined = _joined(field, other, widen=widen, inferred=claim.inferred or first.inferred)
            if joined is None:
                joinable = not widen and _joined(field, other, widen=True, inferred=True) is not None
                hint = f"; {WIDEN}" if joinable else ""
                raise BadInput(
                    f"{claim.where}: field {field.name!r} is {_described(other, field)}, "
                    f"but {_described(field, other)} in {stated_by[field.name]}{hint}"
                )
            if joined.type != field.type:
                stated_by[field.name] = claim.where
            fields[i] = joined
    return pa.schema(fields, metadata=first.schema.metadata)


def other_metadata(claims: Sequence[Claim]) -> list[str]:
    """What `agree` does not keep: a line for every field (and one for the schema) whose metadata is another in a later
    file, naming the first such file. Inferred schemas have none to keep, and BOOKKEEPING is no difference."""
    stated = [claim for claim in claims if not claim.inferred]
    first = _metadata(stated[0].schema) if stated else {}
    lines: dict[str, str] = {}
    for claim in stated[1:]:
        if claim.schema.equals(stated[0].schema, check_metadata=True):
            continue
        found = _metadata(claim.schema)
        for subject, kept in first.items():
            if subject not in lines and found.get(subject, kept) != kept:
                lines[subject] = f"{claim.where}: {subject} has other metadata than in {stated[0].where}, which is kept"
    return list(lines.values())


def surprises(where: str, infos: Sequence[ObjectInfo], claims: Sequence[Claim], outlines: Sequence[Outline]) -> list[str]:
    """Lines of what nobody would expect of the names of folders, and of text that is none. where : the source; an outline a claim."""
    lines = []
    if any("=" in part for info in infos for part in info.path.split("/")[:-1]):
        lines.append(f"{where}: folder names like key=value are not read as columns")
    seen: set[str] = set()
    told: set[str] = set()
    for claim, outline in zip(claims, outlines, strict=True):
        for name in sorted(outline.notes.keys() - told):
            told.add(name)
            lines.append(f"{claim.where}: {f'field {name!r} ' if name else ''}{outline.notes[name]}")
        for item in claim.schema if claim.optional_fields else ():
            if pa.types.is_timestamp(item.type) and item.name not in seen:
                seen.add(item.name)
                lines.append(f"{claim.where}: field {item.name!r} is read as times: in UTC where the text has an offset, which goes")
        for item in claim.schema if claim.inferred else ():
            if pa.types.is_binary(item.type) and item.name not in seen:
                seen.add(item.name)
                lines.append(f"{claim.where}: field {item.name!r} is not UTF-8 and is kept as bytes; as text only from a file in UTF-8")
    return lines


def refuse_duplicate_names(schema: pa.Schema, where: str) -> None:
    """Raises BadInput that names the columns which occur more than once."""
    repeated = sorted(name for name, n in Counter(schema.names).items() if n > 1)
    if repeated:
        raise BadInput(f"{where}: duplicate column names {', '.join(map(repr, repeated))}; rename them")


def conform(batch: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """`batch` under `schema`: columns by name, missing ones null, types widened without loss. Raises BadInput."""
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    columns = []
    for field in schema:
        position = batch.schema.get_field_index(field.name)
        column = pa.nulls(batch.num_rows, field.type) if position < 0 else batch.column(position)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise BadInput(f"{where}: field {field.name!r} cannot become {field.type} exactly: {reason}") from error
        columns.append(column)
    if not columns:
        return batch.replace_schema_metadata(schema.metadata)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _same_names(names: list[str], claim: Claim, first_where: str) -> None:
    theirs = claim.schema.names
    if theirs == names:
        return
    missing = [name for name in names if name not in theirs]
    extra = [name for name in theirs if name not in names]
    if missing:
        raise BadInput(f"{claim.where}: field {missing[0]!r} is missing, which {first_where} has")
    if extra:
        raise BadInput(f"{claim.where}: field {extra[0]!r} is new, {first_where} has no such field")
    moved = next(a for a, b in zip(theirs, names, strict=True) if a != b)
    raise BadInput(f"{claim.where}: field {moved!r} stands in another place than in {first_where}")


def _metadata(schema: pa.Schema) -> dict[str, list[tuple[bytes, bytes]]]:
    """The metadata of a schema and of each of its fields, fields inside fields with their own."""
    return {
        "the schema": _facts(schema.metadata),
        **{f"field {field.name!r}": list(_facts_within(field)) for field in schema},
    }


def _facts_within(field: pa.Field) -> Iterator[tuple[bytes, bytes]]:
    yield from _facts(field.metadata)
    for position in range(field.type.num_fields):
        yield from _facts_within(field.type.field(position))


def _facts(metadata: dict[bytes, bytes] | None) -> list[tuple[bytes, bytes]]:
    return sorted((key, value) for key, value in (metadata or {}).items() if key not in BOOKKEEPING)


def _joined(a: pa.Field, b: pa.Field, *, widen: bool, inferred: bool) -> pa.Field | None:
    """The field both fit in, None if there is none."""
    if a.type == b.type and a.nullable == b.nullable:
        return a
    if a.nullable != b.nullable and not widen:
        return None
    nullable = a.nullable or b.nullable
    if a.type == b.type:
        return a.with_nullable(nullable)
    if widen or inferred:
        filled = _filled(a, b)
        if filled is not None:
            return a.with_type(filled).with_nullable(nullable)
    wider = _wider(a.type, b.type) if widen else None
    return None if wider is None else a.with_type(wider).with_nullable(nullable)


def _filled(a: pa.Field, b: pa.Field) -> pa.DataType | None:
    """The type of both once empty columns and members missing from a struct count as null, else None."""
    pair = [pa.schema([field.with_name("field").with_nullable(True)]) for field in (a, b)]
    try:
        return pa.unify_schemas(pair, promote_options="default").field(0).type
    except pa.ArrowException:
        return None


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The smallest numeric type that both fit in; None where there is none or the kinds differ otherwise."""
    if pa.types.is_integer(a) and pa.types.is_integer(b):
        signed = pa.types.is_signed_integer(a), pa.types.is_signed_integer(b)
        if signed[0] == signed[1]:
            return a if a.bit_width >= b.bit_width else b
        n_bits = max(t.bit_width if s else 2 * t.bit_width for t, s in zip((a, b), signed, strict=True))
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(n_bits)
    if pa.types.is_floating(a) and pa.types.is_floating(b):
        return a if a.bit_width >= b.bit_width else b
    if pa.types.is_integer(a) and pa.types.is_floating(b):
        a, b = b, a
    if pa.types.is_floating(a) and pa.types.is_integer(b):
        needed = 32 if b.bit_width <= 16 else 64
        return a if a.bit_width >= needed else {32: pa.float32(), 64: pa.float64()}[needed]
    return None


def _described(field: pa.Field, other: pa.Field) -> str:
    """The type of a field; nullability too, where the other field has another."""
    nulls = " (may be null)" if field.nullable else " (never null)"
    return f"{field.type}{nulls if field.nullable != other.nullable else ''}"
