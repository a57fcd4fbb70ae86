"""The form a column's integers have in the exact layer: as they are, clocks as minutes, or counts of hidden steps.

Of clocks the form is a bijection on all integers. What makes codes of counts again (`lattices.Counted`) goes before the column in
its stream; a column that no stream holds is known by its codes, for which its counts are nobody can tell.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vae_core.coders.lattices import Counted, counted, floats_of
from vae_core.columns.plan import ColumnPlan
from vae_core.entropy.rans import Channel
from vae_core.errors import CorruptArchive
from vae_core.exact.clock import from_minutes, to_minutes
from vae_core.exact.raw import code_raw

Ints = NDArray[np.int64]
PLAIN, CLOCK, STEPS, STEPS_OF_SINGLES, STEPS_OF_DOUBLES = range(5)
FORMS = range(5)
_FLOATS = {STEPS: None, STEPS_OF_SINGLES: np.dtype("<f4"), STEPS_OF_DOUBLES: np.dtype("<f8")}
_MOST_BYTES = 4096, 16  # of what makes codes of counts, and more a row: what misses are dense takes less


def is_stepped(form: int) -> bool:
    """Whether counts of hidden steps are coded."""
    return form in _FLOATS


def stepped(plan: ColumnPlan) -> int:
    """The form of counts of steps of a column's codes."""
    dtype = floats_of(plan)
    return STEPS if dtype is None else STEPS_OF_SINGLES if dtype.itemsize == 4 else STEPS_OF_DOUBLES


def counts_of(form: int, values: Ints) -> Ints:
    """(n,) codes -> (n,) counts of steps: what code_column codes in their place."""
    return counted(values, _FLOATS[form])[1]


def known_as(form: int, values: Ints) -> Ints:
    """(n,) what other columns see of one that no stream holds."""
    return to_minutes(values) if form == CLOCK else values


class Shown:
    """The integers of a column of a block in the form that is coded.

    own : (n_rows,) int64 them, when writing; when reading what rows hold that are not active        fill : what these hold
    """

    def __init__(
        self, channel: Channel, form: int, n_rows: int, values: Ints | None, active: NDArray[np.bool_] | None, fill: int
    ) -> None:
        """values : (n_rows,) codes, None when reading. active : rows that hold one, None for all. fill : the code of the others."""
        self._form, self._active, self._counted, self._fill = form, active, None, fill
        if is_stepped(form):
            n = n_rows if active is None else int(active.sum())
            counts: Ints | None = None
            if values is not None:
                self._counted, counts = counted(values if active is None else values[active], _FLOATS[form])
            self._counted = _code_counted(channel, self._counted, n, form)
            self.fill = self._counted.fill
            self.own = np.full(n_rows, self.fill, np.int64)
            if counts is not None:
                self.own[slice(None) if active is None else active] = counts
            return
        self.fill = int(to_minutes(np.array([fill], np.int64))[0]) if form == CLOCK else fill
        if values is None:
            self.own = np.full(n_rows, self.fill, np.int64)
        else:
            self.own = to_minutes(values) if form == CLOCK else values.copy()

    @property
    def codes(self) -> Ints:
        """(n_rows,) codes by what `own` holds now."""
        if self._counted is None:
            return from_minutes(self.own) if self._form == CLOCK else self.own
        if self._active is None:
            return self._counted.codes(self.own)
        found = np.full(len(self.own), self._fill, np.int64)
        found[self._active] = self._counted.codes(self.own[self._active])
        return found


def _code_counted(channel: Channel, known: Counted | None, n: int, form: int) -> Counted:
    """Code what makes codes of n counts: a length in bytes, then these, eight at a time. Raises CorruptArchive."""
    data = b"" if known is None else known.to_bytes()
    least, each = _MOST_BYTES
    length = np.array([len(data)], np.int64) if channel.writes else None
    n_bytes = int(code_raw(channel, np.array([32], np.int64), length)[0])
    if n_bytes > least + each * n:
        raise CorruptArchive(f"a stream describes {n} counts of steps by {n_bytes} bytes")
    padded = np.frombuffer(data + bytes(-len(data) % 8), "<i8").astype(np.int64) if channel.writes else None
    words = code_raw(channel, np.full(-(-n_bytes // 8), 64, np.int64), padded)
    return known or Counted.from_bytes(words.astype("<i8").tobytes()[:n_bytes], n, _FLOATS[form])
