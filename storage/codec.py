"""The border to the codec: what the archive asks of it, imported only when a shard is really decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from vae_core.shard import Needs


class Codec(Protocol):
    """Models from files, and blocks from natives and payloads."""

    def load(self, files: Mapping[str, bytes], schema: pa.Schema | None = None) -> Any:
        """The model these files hold; without the encoder's it still decodes. `schema` where they do not state it."""

    def needs(self, model: Any, layout: dict[str, Any], columns: Sequence[str] | None, preview: bool) -> Needs:
        """What `decode_blocks` has to be given for these columns."""

    def blocks_at_once(self, model: Any, block_rows: int) -> int:
        """How many blocks of so many rows are best decoded together."""

    def decode_blocks(
        self,
        model: Any,
        layout: dict[str, Any],
        n_rows: Sequence[int],
        natives: Sequence[Mapping[str, pa.Array]],
        payloads: Sequence[Mapping[str, bytes]],
        columns: Sequence[str] | None,
        preview: bool,
    ) -> Iterator[pa.Table]:
        """(n_rows, columns) of each of some blocks of a shard, in schema order or the order asked for."""


class LearnedCodec:
    """vae_core, imported when first needed; never torch."""

    def load(self, files: Mapping[str, bytes], schema: pa.Schema | None = None) -> Any:
        """See Codec."""
        from vae_core.model import Model

        return Model.from_files(dict(files), schema)

    def needs(self, model: Any, layout: dict[str, Any], columns: Sequence[str] | None, preview: bool) -> Needs:
        """See Codec."""
        from vae_core.shard import needs

        return needs(model, layout, columns, preview)

    def blocks_at_once(self, model: Any, block_rows: int) -> int:
        """See Codec."""
        from vae_core.shard import blocks_at_once

        return blocks_at_once(model, block_rows)

    def decode_blocks(
        self,
        model: Any,
        layout: dict[str, Any],
        n_rows: Sequence[int],
        natives: Sequence[Mapping[str, pa.Array]],
        payloads: Sequence[Mapping[str, bytes]],
        columns: Sequence[str] | None,
        preview: bool,
    ) -> Iterator[pa.Table]:
        """See Codec."""
        from vae_core.shard import decode_blocks

        return decode_blocks(model, layout, n_rows, natives, payloads, columns, preview)
