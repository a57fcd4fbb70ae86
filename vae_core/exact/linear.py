"""An integer linear prediction of a column from columns decoded before it and from its own neighbouring rows.

    guess = (sum_j w_j f_j + bias + 2**15) >> 16        int64 arithmetic that wraps, the same everywhere

f_j is an earlier column at the same row ("at"), the mean of the column's own two neighbours ("mean"), or how far an earlier
column departs from the mean of its own two neighbours at the same distance ("bend"). Of rows coded one after another (`forward`)
it is the column itself so many rows before ("lag3"), or an earlier column so many rows before or behind ("lead1"), or either of them
in the row above or near that ("above", "above-1", "above+2": `above`). Two earlier columns at the same row add

    (w_j f_j g) >> s  ("times<column of g>>s")        floor(w_j f_j / g) >> s, nothing where g < 1  ("over<column of g>>s")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vae_core.errors import CorruptArchive
from vae_core.exact.dense import Dense
from vae_core.exact.features import MOST_BESIDE, Decoded, middle
from vae_core.exact.schedule import taken

Ints = NDArray[np.int64]
SHIFT = 16
TERM_KINDS = ("at", "mean", "bend")
MOST_LAG = 1 << 24
# of what stands beside a prediction
MOST_REFERENCES, MOST_SUMMED, MOST_MIXED, MOST_AROUND, MOST_POWER, MOST_QUARTERS, UNITS = 3, 16, 15, 16, 8, 64, (10, 32)
MOST_COLUMNS, MOST_SHIFTED = 1 << 20, 62
_TWO = re.compile(r"(times|over)(0|[1-9][0-9]{0,6})>(0|[1-9][0-9]?)\Z")
_LAG, _ABOVE = re.compile(r"(lag|lead)([1-9][0-9]{0,7})\Z"), re.compile(r"above([+-][1-9])?\Z")


@lru_cache(4096)
def lag_of(kind: str) -> int | None:
    """Rows before the one predicted that a term of rows one after another reads, in their order; negative: behind. None: another kind."""
    found = _LAG.match(kind)
    if found is None:
        return 0 if kind == "at" else None
    lag = int(found[2])
    return None if lag > MOST_LAG else lag if found[1] == "lag" else -lag


def kind_of(lag: int) -> str:
    """The inverse of lag_of."""
    return f"lag{lag}" if lag > 0 else f"lead{-lag}" if lag else "at"


@lru_cache(64)
def beside_of(kind: str) -> int | None:
    """Rows from the row above that a term reads, 0 for that row itself, negative before it. None: another kind."""
    found = _ABOVE.match(kind)
    beside = None if found is None else int(found[1] or 0)
    return None if beside is None or abs(beside) > MOST_BESIDE else beside


def kind_beside(beside: int) -> str:
    """The inverse of beside_of."""
    return f"above{beside:+d}" if beside else "above"


@lru_cache(256)
def two_of(kind: str) -> tuple[bool, int, int] | None:
    """(whether it is a quotient, the other column, bits that are shifted out) of a term of two columns; None: another kind."""
    found = _TWO.match(kind)
    if found is None or int(found[2]) >= MOST_COLUMNS or int(found[3]) > MOST_SHIFTED:
        return None
    return found[1] == "over", int(found[2]), int(found[3])


def kind_of_two(is_quotient: bool, other: int, shifted: int) -> str:
    """The inverse of two_of."""
    return f"{'over' if is_quotient else 'times'}{other}>{shifted}"


@dataclass(frozen=True, slots=True)
class Term:
    """kind as in the module text, column (-1: the column itself), weight in units of 2**-16, of two columns of 2**-(16 + s)."""

    kind: str
    column: int
    weight: int

    @property
    def lag(self) -> int:
        """Rows before the one predicted that it reads, in the order of a forward plan; negative: behind. 0 of other kinds."""
        return lag_of(self.kind) or 0

    @property
    def beside(self) -> int | None:
        """Rows from the row above that it reads; None of other kinds."""
        return beside_of(self.kind)

    @property
    def columns(self) -> tuple[int, ...]:
        """Earlier columns it reads."""
        two = two_of(self.kind)
        return () if self.column < 0 else (self.column,) if two is None else (self.column, two[1])

    def of_two(self, values: Ints, others: Ints) -> Ints:
        """(n,) what a term of two columns adds, both (n,), in units of 2**-16."""
        two = two_of(self.kind)
        assert two is not None
        is_quotient, _, shifted = two
        with np.errstate(over="ignore"):
            found = values * np.int64(self.weight)
            if is_quotient:
                found = np.where(others > 0, found // np.maximum(others, 1), 0)
            else:
                found *= others
        return found >> shifted


@dataclass(frozen=True, slots=True)
class Simple:
    """A prediction from few cells before: what `reference` says of the cell, and how it was wrong of those.

    reference : 0 for nothing, else 1 + the place of one in Mixed.references      terms : 1..16 pairs (rows before, quarters)
    """

    reference: int
    terms: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Mixed:
    """What stands beside a linear prediction of rows one after another, and how they are weighed (`mixing`).

    references : at most 3, each up to 16 pairs (earlier column, weight in units of 2**-16)
    others     : 1..15 predictions                                around : 1..16 numbers of rows before, whose errors tell
    unit       : 10..32, all is in units of 2^(unit - 16)         power : 1..8, of errors in weights
    """

    references: tuple[tuple[tuple[int, int], ...], ...]
    others: tuple[Simple, ...]
    around: tuple[int, ...]
    unit: int
    power: int

    @property
    def reach(self) -> int:
        """The farthest row before whose value it reads."""
        return max(lag for one in self.others for lag, _ in one.terms)

    @property
    def columns(self) -> set[int]:
        """The earlier columns it reads."""
        return {j for reference in self.references for j, _ in reference}

    def to_json(self) -> list[Any]:
        pairs = [[list(pair) for pair in reference] for reference in self.references]
        others = [[one.reference, [list(pair) for pair in one.terms]] for one in self.others]
        return [pairs, others, list(self.around), self.unit, self.power]


@dataclass(frozen=True, slots=True)
class Linear:
    """terms and bias (units of 2**-16) for rows with neighbours; `anchor` for rows without (no neighbour terms).

    dense : of vectors, what all elements before add; no part of the JSON      mixed : other predictions beside it
    """

    terms: tuple[Term, ...]
    bias: int
    anchor_terms: tuple[Term, ...] = ()
    anchor_bias: int = 0
    dense: Dense | None = field(default=None, compare=False)
    mixed: Mixed | None = None

    @property
    def by_level(self) -> bool:
        """Whether it reads neighbouring rows."""
        return any(term.kind in ("mean", "bend") for term in self.terms)

    @property
    def is_forward(self) -> bool:
        """Whether it reads rows before, of rows coded one after another."""
        return self.mixed is not None or self.reads_above or any(term.lag for term in (*self.terms, *self.anchor_terms))

    @property
    def reads_above(self) -> bool:
        """Whether it reads the row above."""
        return any(term.beside is not None for term in self.terms)

    @property
    def reach(self) -> int:
        """The farthest row before of the column itself that it reads."""
        return max([0 if self.mixed is None else self.mixed.reach, *(term.lag for term in self.terms if term.column < 0)])

    @property
    def columns(self) -> set[int]:
        """The earlier columns it reads."""
        mixed = set() if self.mixed is None else self.mixed.columns
        return {j for t in (*self.terms, *self.anchor_terms) for j in t.columns} | mixed

    def to_json(self) -> list[Any]:
        return [
            [[t.kind, t.column, t.weight] for t in self.terms],
            self.bias,
            [[t.kind, t.column, t.weight] for t in self.anchor_terms],
            self.anchor_bias,
            *([] if self.mixed is None else [self.mixed.to_json()]),
        ]

    def guess(
        self, decoded: Decoded, rows: Ints | slice, own: Ints, left: Ints | None, right: Ints | None
    ) -> tuple[Ints, Ints]:
        """(n,) predictions for the given rows, and their fractions in eighths; left/right are row numbers of the neighbours,
        None on anchors."""
        anchor = left is None
        terms, bias = (self.anchor_terms, self.anchor_bias) if anchor and self.by_level else (self.terms, self.bias)
        n = len(own[rows]) if isinstance(rows, slice) else len(rows)
        total = np.full(n, bias + (1 << (SHIFT - 1)), np.int64)
        with np.errstate(over="ignore"):
            for term in terms:
                if two_of(term.kind) is None:
                    total += np.int64(term.weight) * term_values(term.kind, term.column, decoded, rows, own, left, right)
                else:
                    total += term.of_two(*(term_values("at", j, decoded, rows, own, left, right) for j in term.columns))
        return total >> SHIFT, (total >> (SHIFT - 3)) & 7


def term_values(
    kind: str, column: int, decoded: Decoded, rows: Ints | slice, own: Ints, left: Ints | None, right: Ints | None
) -> Ints:
    """(n,) values of one term's variable."""
    if kind == "mean":
        assert left is not None and right is not None
        return middle(own.take(left), own.take(right))
    if column not in decoded.values:
        raise CorruptArchive(f"model predicts a column from column {column}, which is not decoded before it")
    values = decoded.values[column]
    if kind == "at":
        return taken(values, rows)
    assert left is not None and right is not None
    with np.errstate(over="ignore"):
        return taken(values, rows) - middle(values.take(left), values.take(right))


def from_json(parts: Any, n_columns: int) -> Linear:
    """The inverse of to_json. Raises CorruptArchive on anything else."""
    try:
        terms, bias, anchor_terms, anchor_bias, *more = parts
        read = tuple(Term(str(k), int(c), int(w)) for k, c, w in terms)
        anchors = tuple(Term(str(k), int(c), int(w)) for k, c, w in anchor_terms)
        linear = Linear(read, int(bias), anchors, int(anchor_bias), mixed=_mixed_from_json(more, n_columns) if more else None)
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptArchive(f"model holds a malformed linear prediction: {str(parts)[:60]}") from error
    for term in (*read, *anchors):
        own = term.kind == "mean" or ((term.kind.startswith("lag") or term.beside is not None) and term.column == -1)
        known = term.column == -1 if own else 0 <= term.column < n_columns and all(j < n_columns for j in term.columns)
        is_kind = term.kind in TERM_KINDS or lag_of(term.kind) is not None or term.beside is not None or two_of(term.kind) is not None
        if not is_kind or not known or abs(term.weight) >= 1 << 40:
            raise CorruptArchive(f"model holds a malformed linear term: {term}")
    if linear.by_level and linear.is_forward:
        raise CorruptArchive("model holds a linear prediction both of rows around and of rows one after another")
    early = any(t.kind in ("mean", "bend") or t.beside is not None or t.column < 0 for t in anchors)
    if early or max(abs(linear.bias), abs(linear.anchor_bias)) >= 1 << 62:
        raise CorruptArchive("model holds a linear prediction of anchors from rows that are not decoded yet")
    return linear


def _mixed_from_json(parts: list[Any], n_columns: int) -> Mixed:
    match parts:
        case [[[*references], [*others], [*around], int(unit), int(power)]] if (
            len(references) <= MOST_REFERENCES and 1 <= len(others) <= MOST_MIXED and 1 <= len(around) <= MOST_AROUND
            and all(_is_lag(lag) for lag in around) and UNITS[0] <= unit <= UNITS[1] and 1 <= power <= MOST_POWER
        ):  # fmt: skip
            read = tuple(_pairs(r, MOST_SUMMED, lambda j, w: 0 <= j < n_columns and abs(w) < 1 << 40) for r in references)
            simple = tuple(
                Simple(int(r), _pairs(terms, MOST_AROUND, lambda lag, quarters: _is_lag(lag) and abs(quarters) <= MOST_QUARTERS))
                for r, terms in others
            )
        case _:
            raise CorruptArchive(f"model holds a malformed mix of predictions: {str(parts)[:60]}")
    if any(not 0 <= one.reference <= len(read) for one in simple):
        raise CorruptArchive(f"model mixes predictions by references it does not describe: {str(parts)[:60]}")
    return Mixed(read, simple, tuple(around), unit, power)


def _is_lag(lag: Any) -> bool:
    return isinstance(lag, int) and 1 <= lag <= MOST_LAG


def _pairs(parts: Any, most: int, fits: Callable[[int, int], bool]) -> tuple[tuple[int, int], ...]:
    """1..most pairs of integers that fit."""
    if not 1 <= len(parts) <= most or not all(isinstance(a, int) and isinstance(b, int) and fits(a, b) for a, b in parts):
        raise ValueError(f"not pairs of integers: {str(parts)[:60]}")
    return tuple((int(a), int(b)) for a, b in parts)
