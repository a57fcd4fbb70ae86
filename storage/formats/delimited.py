"""CSV and its kin: types inferred from the first megabytes, values parsed in a stream."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc

from storage.errors import BadInput
from storage.formats.compression import decompressed, opened_text
from storage.formats.contract import Format, Outline, narrowed, sliced, unreadable

_BLOCK_BYTES = 4 << 20
_DEEP_LOOK_BYTES = 64 << 20
_HEADER_BYTES = 1 << 20
_DELIMITERS = ",\t;|"
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+")
_PADDED = "^[ \t]*0[0-9]"
_MISFIT = re.compile(r"In CSV column #(\d+): CSV conversion error to (.*)")  # pyarrow's words


class Delimited(Format):
    """Text with one header line and a delimiter (the most frequent of comma, tab, semicolon, bar in the header)."""

    name = "csv"
    inferred = True

    def outline(self, file: BinaryIO, n_bytes: int, where: str) -> Outline:
        if n_bytes == 0:
            raise BadInput(f"{where}: the file is empty, not even a header line")
        try:
            if decompressed(file).read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise BadInput(f"{where}: is text in UTF-16; convert it to UTF-8")
            schema = self._inferred_schema(file, _BLOCK_BYTES)
            if any(pa.types.is_null(field.type) for field in schema):
                schema = self._inferred_schema(file, _DEEP_LOOK_BYTES)
            file.seek(0)
            notes = _surprises(schema, decompressed(file).read(_HEADER_BYTES))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "CSV", error) from error
        return Outline(schema, None, notes)

    def batches(
        self, path: str, schema: pa.Schema, start: int, stop: int | None, batch_rows: int, where: str
    ) -> Iterator[pa.RecordBatch]:
        names: list[str] = []
        row = start
        try:
            with opened_text(path) as stream:
                parsing, n_before = _parsing(stream.read(_HEADER_BYTES))
            with opened_text(path) as stream:
                reader = pc.open_csv(
                    stream,
                    read_options=pc.ReadOptions(block_size=_BLOCK_BYTES, skip_rows=n_before, skip_rows_after_names=start),
                    parse_options=parsing,
                    convert_options=_converting(schema, parsing),
                )
                names = reader.schema.names
                for batch in sliced(iter(reader), 0, None if stop is None else stop - start):
                    row += batch.num_rows
                    yield from narrowed(batch, batch_rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            if (misfit := _MISFIT.search(str(error))) and int(misfit[1]) < len(names):
                told = f"field {names[int(misfit[1])]!r}, some way after row {row}: not {misfit[2].splitlines()[0]}"
                raise BadInput(f"{where}: {told}; its type was inferred from the file's first rows, Parquet would state it") from error
            raise unreadable(where, "CSV", error) from error

    def _inferred_schema(self, file: BinaryIO, block_bytes: int) -> pa.Schema:
        file.seek(0)
        parsing, n_before = _parsing(decompressed(file).read(_HEADER_BYTES))
        file.seek(0)
        reader = pc.open_csv(
            decompressed(file),
            read_options=pc.ReadOptions(block_size=block_bytes, use_threads=False, skip_rows=n_before),
            parse_options=parsing,
        )
        return reader.schema


def _surprises(schema: pa.Schema, head: bytes) -> dict[str, str]:
    """Field -> what nobody would expect of it, as far as the first megabyte tells."""
    notes = {}
    if all(_NUMBER.fullmatch(name) for name in schema.names):
        notes[""] = f"its first line ({', '.join(schema.names[:3])}{', …' * (len(schema) > 3)}) is taken for the names of its columns"
    numbers = [item.name for item in schema if pa.types.is_integer(item.type) or pa.types.is_floating(item.type)]
    parsing, n_before = _parsing(head)
    whole = head if len(head) < _HEADER_BYTES else head[: head.rfind(b"\n") + 1]
    if numbers and whole and len(set(schema.names)) == len(schema):
        try:
            texts = pc.read_csv(
                io.BytesIO(whole),
                read_options=pc.ReadOptions(use_threads=False, skip_rows=n_before),
                parse_options=parsing,
                convert_options=pc.ConvertOptions(column_types=dict.fromkeys(numbers, pa.string()), include_columns=numbers),
            )
        except pa.ArrowException:  # cut within quotes; what else is amiss, reading says
            return notes
        for name in numbers:
            if compute.any(compute.match_substring_regex(texts[name], _PADDED)).as_py():
                notes[name] = f"is read as {schema.field(name).type}: the zeros in front of its numbers go; as text only from Parquet"
    return notes


def _parsing(head: bytes) -> tuple[pc.ParseOptions, int]:
    """How to parse a file that begins so, and the empty lines to skip before its header.

    After it an empty line is a null where there is one column, and no row where there are more.
    """
    text = head.lstrip(b"\r\n")
    header = text.split(b"\n", 1)[0].decode("utf-8", "replace")
    outside_quotes = "".join(header.split('"')[::2])
    delimiter = max(_DELIMITERS, key=outside_quotes.count)
    if delimiter in outside_quotes:
        return pc.ParseOptions(delimiter=delimiter, newlines_in_values=True), 0
    n_before = len(head[: len(head) - len(text)].splitlines())
    return pc.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False), n_before


def _converting(schema: pa.Schema, parsing: pc.ParseOptions) -> pc.ConvertOptions:
    """Types as the schema has them; an empty line is a null also where it could be a text, which is written with quotes."""
    types: Any = {field.name: field.type for field in schema}
    if parsing.ignore_empty_lines or not any(map(pa.types.is_string, types.values())):
        return pc.ConvertOptions(column_types=types)
    return pc.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
