"""One shard of a table as natives and payloads: what `encode_shard` hands to storage and `decode_block` takes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class NativeColumn:
    """One column of latents.parquet.

    name     : unique within the shard
    role     : "latent" | "verbatim" | "coded"
    encoding : "plain" | "dictionary" | "delta" | "split", the Parquet encoding to write it with
    column   : the dataset column whose bytes it carries, None for latents
    """

    name: str
    role: str
    encoding: str
    column: str | None


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """n_rows rows: one array of n_rows values per native column, one byte string per payload group."""

    n_rows: int
    natives: dict[str, pa.Array]
    payloads: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class ColumnOutcome:
    """How one dataset column was coded over a shard.

    n_bytes            : its share of payload bytes; the writer adds the bytes of its native columns
    conventional_bytes : the best conventional coding of the same values at the same tolerance, measured
    """

    name: str
    coding: str
    n_bytes: int
    conventional_bytes: int
    max_abs_error: float = 0.0


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """A shard before it is written.

    layout : JSON, what decoding needs beyond the model
    rivals : columns of which `outcomes` have conventional_bytes that are not measured, enough to choose by, and what tells them
             (`encoding.measured`)
    preview_in_doubt : the preview is kept because it pays, by what is known of these (`encoding.beaten_by`)
    """

    layout: dict[str, Any]
    natives: tuple[NativeColumn, ...]
    groups: tuple[str, ...]
    blocks: tuple[EncodedBlock, ...]
    outcomes: tuple[ColumnOutcome, ...]
    bits_per_value: dict[str, float] = field(default_factory=dict)
    rivals: Mapping[str, Callable[[bool], int]] = field(default_factory=dict, compare=False, repr=False)
    preview_in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """The native columns and payload groups a read has to fetch."""

    natives: tuple[str, ...]
    groups: tuple[str, ...]
