"""JSON lines: one object a line; a key that is missing is null."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.json as pj

from storage.errors import BadInput
from storage.formats.compression import decompressed, opened_text
from storage.formats.contract import Format, Outline, narrowed, sliced, unreadable

_BLOCK_BYTES = 16 << 20  # a record larger than this is refused
_DEEP_LOOK_BYTES = 64 << 20
_HEAD_BYTES = 4096


class JSONLines(Format):
    """Newline-delimited JSON objects. Types are inferred from the first megabytes; later surprises are errors."""

    name = "jsonl"
    inferred = True

    def outline(self, file: BinaryIO, n_bytes: int, where: str) -> Outline:
        if n_bytes == 0:
            raise BadInput(f"{where}: the file is empty")
        try:
            first = decompressed(file).read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            if first and first != b"{":
                what = "is one JSON array" if first == b"[" else "does not begin with an object"
                raise BadInput(f"{where}: {what}; JSON lines are objects, one a line (jq -c '.[]' makes them of an array)")
            schema = _inferred_schema(file, _BLOCK_BYTES)
            if any(pa.types.is_null(field.type) for field in schema):
                schema = _inferred_schema(file, _DEEP_LOOK_BYTES)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "JSON lines", error) from error
        return Outline(schema, None)

    def batches(
        self, path: str, schema: pa.Schema, start: int, stop: int | None, batch_rows: int, where: str
    ) -> Iterator[pa.RecordBatch]:
        try:
            with opened_text(path) as stream:
                reader = pj.open_json(
                    stream,
                    read_options=pj.ReadOptions(block_size=_BLOCK_BYTES),
                    parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
                )
                for batch in sliced(iter(reader), start, stop):
                    yield from narrowed(batch, batch_rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable(where, "JSON lines", error) from error


def _inferred_schema(file: BinaryIO, block_bytes: int) -> pa.Schema:
    file.seek(0)
    read_options = pj.ReadOptions(block_size=block_bytes, use_threads=False)
    return pj.open_json(decompressed(file), read_options=read_options).schema
