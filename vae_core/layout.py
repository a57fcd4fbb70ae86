"""What decoding one shard needs beyond the model: the coding of each column and where its bytes are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vae_core.base import GAIN_UNIT
from vae_core.coders.conventional import CODINGS
from vae_core.columns import ColumnPlan
from vae_core.errors import CorruptArchive
from vae_core.model import Model

LEARNED, LATENT = "learned", "latent"
UNIFORM = "uniform/"
"""Prefix of a conventional coding of a distortion column: it codes the column's uniform plan."""
POOL = "pool"
ABOVE = "a0"
"""The section of rows above."""


def uses_codes(coding: str) -> bool:
    """Whether a conventional coding stores a column's codes (and so needs its dictionary), not its raw values."""
    return coding.removeprefix(UNIFORM) in ("pco", "zstd", "lattices") or coding.removeprefix(UNIFORM).startswith("codes-")


def is_native(coding: str) -> bool:
    """Whether a conventional coding keeps a column in latents.parquet."""
    return coding.removeprefix(UNIFORM).startswith(("parquet-", "codes-"))


@dataclass(frozen=True, slots=True)
class Layout:
    """One shard's layout (FORMAT.md, "Layout").

    codings : a coding per column: "learned" (a stream), "latent" (the distortion layer), else a conventional one
    streams : columns of each rANS stream, in coding order; stream k is section "s<k>"
    sections: every section there is, in pool order; "c<j>" conventional payload, "m<j>" misfits, "n<j>" states of column j, "a0" rows above
    own     : the sections that are payload groups of their own; the rest is in the pool
    native  : column -> its name in latents.parquet, for columns that have one
    preview : the shard has the preview's latents        gain : of the distortion layer's latents
    fixed   : lengths in the pool are of four bytes, as before format 1.4
    """

    codings: tuple[str, ...]
    streams: tuple[tuple[int, ...], ...] = ()
    sections: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    native: Mapping[int, str] = field(default_factory=dict)
    preview: bool = False
    gain: int = GAIN_UNIT
    fixed: bool = False

    @property
    def pooled(self) -> tuple[str, ...]:
        """Sections in the pool."""
        return tuple(s for s in self.sections if s not in self.own)

    @property
    def groups(self) -> tuple[str, ...]:
        """Payload groups of the shard."""
        return (*self.own, *((POOL,) if self.pooled else ()))

    def group_of(self, section: str) -> str:
        """The payload group a section is in."""
        return section if section in self.own else POOL

    def conventional(self, model: Model, j: int) -> tuple[ColumnPlan, str]:
        """The plan and the coding of a column that is stored conventionally."""
        coding = self.codings[j]
        return (model.uniform[j], coding.removeprefix(UNIFORM)) if coding.startswith(UNIFORM) else (model.columns[j], coding)

    def to_json(self) -> dict[str, Any]:
        """Small JSON."""
        return {
            "codings": list(self.codings),
            "streams": [list(s) for s in self.streams],
            "sections": _runs(self.sections),
            "own": list(self.own),
            "native": [[j, name] for j, name in self.native.items()],
            "preview": self.preview,
            "gain": self.gain,
            "lengths": "u32" if self.fixed else "leb128",
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], model: Model) -> Layout:
        """The inverse of to_json, checked against the model. Raises CorruptArchive."""
        try:
            layout = cls(
                tuple(str(c) for c in data["codings"]),
                tuple(tuple(int(c) for c in s) for s in data["streams"]),
                tuple(_spelt_out(data["sections"], len(model.columns))),
                tuple(str(s) for s in data["own"]),
                {int(j): str(name) for j, name in data["native"]},
                bool(data["preview"]),
                int(data["gain"]),
                {"u32": True, "leb128": False}[data.get("lengths", "u32")],
            )
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise CorruptArchive(f"shard layout cannot be read: {type(error).__name__}: {error}") from error
        layout.check(model)
        return layout

    def check(self, model: Model) -> None:
        """Raise CorruptArchive when this layout cannot be one of the model's."""
        if len(self.codings) != len(model.columns) or any(
            c.removeprefix(UNIFORM) not in (LEARNED, LATENT, *CODINGS) for c in self.codings
        ):
            raise CorruptArchive(f"shard layout has codings {self.codings[:4]}… for {len(model.columns)} columns")
        learned = [j for j, c in enumerate(self.codings) if c == LEARNED]
        order = list(model.learned)
        streamed = [j for s in self.streams for j in s]
        if sorted(streamed) != learned or any(list(s) != [j for j in order if j in s] for s in self.streams):
            raise CorruptArchive("shard layout streams other columns than it codes, or in another order than the model")
        if not set(self.own) <= set(self.sections) or len(set(self.sections)) != len(self.sections):
            raise CorruptArchive("shard layout names sections twice, or groups that are no sections")
        if self.preview and model.preview is None:
            raise CorruptArchive("shard layout has a preview, its model none")
        layer = set() if model.distortion is None else set(model.distortion.columns)
        if not {j for j, c in enumerate(self.codings) if c.startswith(UNIFORM)} <= set(model.uniform):
            raise CorruptArchive("shard layout takes uniform plans from a model that has none for the column")
        if not {j for j, c in enumerate(self.codings) if c == LATENT} <= layer:
            raise CorruptArchive("shard layout takes columns from a distortion layer that does not code them")


def _runs(sections: Sequence[str]) -> list[list[Any]]:
    """[letter, first number, how many] of stretches of sections numbered one after another."""
    found: list[list[Any]] = []
    for section in sections:
        letter, number = section[0], int(section[1:])
        if found and found[-1][0] == letter and found[-1][1] + found[-1][2] == number:
            found[-1][2] += 1
        else:
            found.append([letter, number, 1])
    return found


def _spelt_out(runs: Sequence[Any], n_columns: int) -> Iterator[str]:
    """The inverse; before format 1.4 every section is named. Raises ValueError for more than a layout of so many columns has."""
    for run in runs:
        if isinstance(run, str):
            yield run
            continue
        letter, first, n = str(run[0]), int(run[1]), int(run[2])
        if not 0 <= first <= first + n <= n_columns:
            raise ValueError(f"sections {letter}{first} to {letter}{first + n} of {n_columns} columns")
        yield from (f"{letter}{k}" for k in range(first, first + n))
