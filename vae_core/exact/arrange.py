"""Codes for all columns of a sample: searched in one order, then with single columns moved to the end while that pays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vae_core.entropy import kernel
from vae_core.entropy.rans import Encoder
from vae_core.exact.cells import code_column
from vae_core.exact.effort import QUICK
from vae_core.exact.features import Decoded, Feature
from vae_core.exact.forms import is_stepped
from vae_core.exact.ordering import WIDE, SampleColumn
from vae_core.exact.parents import MIN_GAIN_BITS
from vae_core.exact.plans import ColumnCode
from vae_core.exact.price import Price, column_price
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.exact.search import search_column
from vae_core.exact.tuning import TUNED_ROWS, TUNED_RUN, tuned

Found = tuple[ColumnCode, float]
MOVABLE = 16  # columns, the dearest, that are tried at the end
HEIRS = 2
WORTH_A_TRIAL = 0.1  # of a column's bits
SEARCH_ROWS = 20_000  # of the dataset, for one more search a column
MOST_SEARCHES = 10
DEARER = 1.01  # than a column on its own: so much an old code may be before it is replaced without looking at the clock
QUICK_ROWS, QUICK_RUN = 8_192, 1_024
WORTH_TUNING = 4_000.0  # bits of a column over the dataset
WORTH_A_PLACE = 0.02  # of all bits, what a column costs for it to be moved
HOPELESS = 0.03  # of all bits: a move that loses more by quick searches is no likely one
WORTH_SCREENING = 4 * QUICK_ROWS  # rows of a sample: of fewer, quick searches take not much less than others


class Arrangement:
    """Columns in coding order with their codes and estimated bits over the sample.

    A search for which there is no time is a quick one: on few rows, of few columns beside it.
    """

    def __init__(
        self, sampled: Sampled, columns: Sequence[SampleColumn], tick: Callable[[], bool], now: Callable[[], float] = time.monotonic
    ) -> None:
        """tick: whether time is left      now: the clock that deadlines are of"""
        self._sampled, self._tick, self._now = sampled, tick, now
        self._columns = {c.column: c for c in columns}
        self._deadline, self._screened = math.inf, False
        # what an order saves grows with the rows it is for
        self._searches_left = min(MOST_SEARCHES, 1 + sampled.n_total // SEARCH_ROWS) * len(columns)
        self._quick: dict[tuple[int, frozenset[int], frozenset[int], Feature | None], float] = {}
        self.order: list[int] = []
        self.found: dict[int, Found] = {}

    @property
    def codes(self) -> tuple[ColumnCode, ...]:
        """In coding order."""
        return tuple(self.found[j][0] for j in self.order)

    @property
    def bits(self) -> float:
        """Of all columns found so far, over the sample."""
        return sum(bits for _, bits in self.found.values())

    @property
    def _costs(self) -> dict[int, float]:
        """Of each column, with what reading it is worth."""
        return {j: bits + column_price(self._sampled.price, self._sampled.decoded, code) for j, (code, bits) in self.found.items()}

    @property
    def late(self) -> bool:
        """Whether what is not found yet had better not be learned: of very many columns even a hasty search each takes long."""
        return len(self._columns) > WIDE and not self._tick()

    def add(self, column: int, hurry: bool = False) -> None:
        """Search the code of one more column, after all there are. hurry: quickly, whether or not there is time."""
        self.found[column] = self._search(column, self.order, hurry)
        self.order.append(column)

    def take(self, other: Arrangement) -> None:
        """Columns that are not here yet, as they are in an arrangement whose order begins as this one's."""
        for column in other.order:
            if column not in self.found:
                self.order.append(column)
                self.found[column] = other.found[column]

    def put_first(self, columns: Collection[int]) -> None:
        """Move columns to the front that no other column tells: others may be told by them then."""
        alone = [j for j in self.order if j in columns and not self.found[j][0].columns]
        self.order = [*alone, *(j for j in self.order if j not in alone)]

    def better(self, report: Callable[[], None]) -> None:
        """Search anew while there is time, the dearest columns first."""
        for column in sorted(self.order, key=lambda j: -self.found[j][1]):
            if not self._tick():
                break
            again = self._search(column, self.order[: self.order.index(column)])
            if again[1] < self.found[column][1]:
                self.found[column] = again
            report()

    def searched_again(
        self, sampled: Sampled, columns: Sequence[SampleColumn], only: Collection[int] | None = None,
        remembering: Collection[int] | None = None,
    ) -> Arrangement:
        """The same order with the codes that another sample of the columns asks for, the dearest columns first while there is time.

        only: columns to search, None for all      remembering: those that matches are looked for of, None: as the sample says of all
        """
        found = Arrangement(sampled, columns, self._tick, self._now)
        more = sampled.n_rows / max(1, self._sampled.n_rows)
        found.order, found.found = self.order, {j: (code, bits * more) for j, (code, bits) in self.found.items()}
        costs = self._costs
        for column in sorted(self.order if only is None else only, key=lambda j: -costs[j]):
            if not self._tick():
                break
            if remembering is not None:
                found._sampled = replace(sampled, remembers=column in remembering)
            again = found._search(column, self.order[: self.order.index(column)])
            if not self._tick() and more != 1:
                break
            before = found.found[column]
            if not kernel.available():
                found.found[column] = again if more != 1 or again[1] < before[1] else before
                continue
            # of more rows, other ways to write the column come first, and not always the better ones
            both = [coded_again(code, sampled, found._columns[column]) for code, _ in (before, again)]
            found.found[column] = min(both, key=lambda one: one[1] + column_price(sampled.price, sampled.decoded, one[0]))
        found._sampled = sampled
        return found

    @property
    def price(self) -> Price:
        """What reading the table sooner is worth, by the codes there are, as if all were looked up in counts."""
        one = Price(steps=0.0, mixed=0.0, numpy=1.0)
        us = sum(column_price(one, self._sampled.decoded, code, counted=True) for code, _ in self.found.values())
        return self._sampled.price.for_table(self.bits, us)

    def priced(self, columns: Sequence[SampleColumn], price: Price) -> Arrangement:
        """The same with other codes of columns whose rows are coded one after another, where these are worth less than reading them takes.
        That symbols are gathered instead of looked up is for `tune` to try."""
        sampled = replace(self._sampled, remembers=True, searched={}, price=price)
        slow = [j for j, (code, _) in self.found.items() if code.value.forward is not None]
        return self.searched_again(sampled, columns, slow)

    def forget_prices(self) -> None:
        """Bits are what codes take, no longer what reading them is worth, too."""
        if self._sampled.price.is_high:
            self.found = {j: coded_again(code, self._sampled, self._columns[j]) for j, (code, _) in self.found.items()}

    def tune(self, threads: int, until: float) -> None:
        """Weights by coding rows of the sample, or symbols gathered instead of counted, the dearest columns first, while there is time: at
        least until then."""
        scale, whole = self._sampled.n_total / max(1, self._sampled.n_rows), self._sampled.decoded
        if not kernel.available():
            return  # it would take minutes
        rows = some_rows(self._sampled.n_rows, TUNED_ROWS, TUNED_RUN)
        states = {j: None if state is None else state[rows] for j, state in whole.states.items()}
        above = None if whole.above is None else whole.above[rows]
        some = Decoded(len(rows), {j: values[rows] for j, values in whole.values.items()}, states, above=above)
        costs = self._costs
        counted = {j for j, (code, _) in self.found.items() if not (code.is_gathered and (states[j] is None or code.state.gathered))}
        dear = [j for j in self.order if costs[j] * scale > WORTH_TUNING and j in counted]

        def tick() -> bool:
            return self._now() < until or self._tick()

        def tuned_column(column: int) -> Found:
            code, bits = self.found[column]
            if not tick():
                return code, bits
            code, share = tuned(some, code, tick, self._sampled.price)
            return code, bits * share

        dear.sort(key=lambda j: -costs[j])
        with ThreadPoolExecutor(max(1, threads)) as pool:
            self.found |= dict(zip(dear, pool.map(tuned_column, dear), strict=True))

    def relieve(self, alone: Mapping[int, float]) -> None:
        """Replace codes that take more than their columns do on their own, which those of other rows may: by hasty searches, whether or
        not there is time, and in tables of very many columns by none, where no other column is told by it.

        alone : bits of each column over the sample without any context
        """
        for column in reversed(list(self.order)):
            if self.found[column][1] <= DEARER * alone[column]:
                continue
            if self.late and not self._children(column):
                self.order.remove(column)
                del self.found[column]
                continue
            for placed in (self.order[: self.order.index(column)], []):
                if self.found[column][1] > DEARER * alone[column]:
                    self.found[column] = min(self.found[column], self._search(column, placed, hurry=True), key=lambda found: found[1])

    def improve(self, report: Callable[[], None], deadline: float = math.inf, screened: bool = False) -> None:
        """Move columns to the end, the dearest first, as long as that saves bits and there is time; where that does not save, with
        one of the columns told by it in its place.

        A column that tells of others may be told better by them: what it tells is then lost to them, which the search of their
        codes anew shows. deadline: of the clock. screened: without moves that quick searches find hopeless, which are those that do not
        pay but for a few, of columns that others tell by what they were last or by several at once.
        """
        self._deadline, self._screened = deadline, screened and self._sampled.n_rows >= WORTH_SCREENING
        moved = True
        while moved and self._may_go_on():
            moved = False
            dear = [j for j in self.order if self.found[j][1] > WORTH_A_PLACE * self.bits]
            for column in sorted(dear, key=lambda j: -self.found[j][1])[:MOVABLE]:
                if not self._could_gain(column):
                    continue
                heirs = [j for j in self._children(column) if j in dear]
                for heir in (None, *sorted(heirs, key=lambda j: -self.found[j][1])[:HEIRS]):
                    if self._may_go_on() and self._moves_to_the_end(column, heir):
                        moved = True
                        report()
                        break

    def _could_gain(self, column: int) -> bool:
        """Whether a column told by this one may tell it: by its price in the first orders, or as a term of a linear relation."""
        gains, n = self._sampled.gains.get(column, {}), self._sampled.n_rows
        for j in self._children(column):
            linear = self.found[j][0].value.linear
            if gains.get(j, 0.0) * n > WORTH_A_TRIAL * self.found[column][1] or (linear is not None and column in linear.columns):
                return True
        return False

    def _may_go_on(self) -> bool:
        return self._searches_left > 0 and self._now() < self._deadline and self._tick()

    def _children(self, column: int) -> list[int]:
        return [j for j in self.order if column in self.found[j][0].columns]

    def _search(self, column: int, before: Sequence[int], hurry: bool = False) -> Found:
        ordered = self._ordered(before)
        if not hurry and self._tick():
            sampled = replace(self._sampled, placed=[self._columns[j] for j in before], ordered=ordered)
            return search_column(sampled, self._columns[column], self._tick)
        few, columns = self._few
        code, bits = search_column(replace(few, placed=[columns[j] for j in before], ordered=ordered), columns[column], lambda: False)
        return code, bits * self._sampled.n_rows / max(1, few.n_rows)

    def _ordered(self, before: Sequence[int]) -> set[int]:
        return {j for j in before if self.found[j][0].in_order}

    def _quick_bits(self, column: int, before: Sequence[int]) -> float:
        """What a quick search says that a column takes after others."""
        few, columns = self._few
        few = replace(few, placed=[columns[j] for j in before])
        looked_at = frozenset(c.column for c in few.related(column, few.effort.most))
        situation = column, looked_at, looked_at.intersection(self._ordered(before)), few.set_before(column)
        if situation not in self._quick:
            self._quick[situation] = self._search(column, before, hurry=True)[1]
        return self._quick[situation]

    def _quick_losses(self, columns: Sequence[int], order: Sequence[int]) -> dict[int, float] | None:
        """What each of the columns takes more in another order by quick searches; None where that is hopeless, or the time is out."""
        losses = dict[int, float]()
        for j in columns:
            if not self._may_go_on():
                return None
            was, then = (self._quick_bits(j, placed[: placed.index(j)]) for placed in (self.order, order))
            losses[j] = then - was
            if sum(losses.values()) > HOPELESS * self.bits:
                return None
        return losses

    @cached_property
    def _few(self) -> tuple[Sampled, dict[int, SampleColumn]]:
        """What quick searches look at."""
        rows = some_rows(self._sampled.n_rows, QUICK_ROWS, QUICK_RUN)
        columns = [
            replace(c, values=c.values[rows], state=None if c.state is None else c.state[rows]) for c in self._columns.values()
        ]
        whole = self._sampled
        few = Sampled(len(rows), whole.n_total, decoded_sample(columns), gains=whole.gains, groups=whole.groups, effort=QUICK)
        few = replace(few, numeric=whole.numeric, each=whole.each, price=whole.price)
        return few, {c.column: c for c in columns}

    def _moves_to_the_end(self, column: int, heir: int | None) -> bool:
        children = self._children(column)
        if not children:
            return False
        order = [j for j in self.order if j != column]
        if heir is not None:
            order.remove(heir)
            order.insert(self.order.index(column), heir)
        order.append(column)
        if self._screened:
            losses = self._quick_losses((column, *children), order)
            if losses is None:
                return False
            children.sort(key=lambda j: -losses[j])  # what is likely to end a trial early
        trial: dict[int, Found] = {}
        saved = -MIN_GAIN_BITS * self._sampled.n_rows / max(1, self._sampled.n_total)
        # the moved column first: unless it gains, nothing does
        for j in (column, *children):
            self._searches_left -= 1
            trial[j] = self._search(j, order[: order.index(j)])
            saved += self.found[j][1] - trial[j][1]
            if saved <= 0:
                return False
        self.order, self.found = order, self.found | trial
        return True


def some_rows(n: int, n_rows: int, run: int) -> NDArray[np.int64]:
    """About n_rows of n rows, in runs of so many from all over; all where these are few more."""
    if n <= n_rows + n_rows // 4:
        return np.arange(n)
    starts = np.linspace(0, n - run, n_rows // run).astype(np.int64)
    return np.asarray((starts[:, None] + np.arange(run)).reshape(-1), np.int64)


def coded_again(code: ColumnCode, sampled: Sampled, column: SampleColumn, priced: bool = False) -> Found:
    """A code, and what it takes of these rows; priced: and what reading it is worth."""
    encoder, whole = Encoder(), sampled.decoded
    seen = Decoded(sampled.n_rows, dict(whole.values), dict(whole.states), above=whole.above)
    form = column.form if is_stepped(code.form) else code.form
    code_column(encoder, code := replace(code, fill=column.fill, form=form), seen, column.values, column.state)
    return code, encoder.bits + (column_price(sampled.price, whole, code) if priced else 0.0)


def arranged_before(
    known: Sequence[ColumnCode], sampled: Sampled, picked: Sequence[SampleColumn], tick: Callable[[], bool],
    now: Callable[[], float] = time.monotonic,
) -> Arrangement:
    """Codes of an earlier fit and what they take of a sample coded by them; columns that fit did not learn are searched after them."""
    found, columns = Arrangement(sampled, picked, tick, now), {c.column: c for c in picked}
    for code in known:
        column, reads = columns.get(code.column), code.columns
        if column is None or not reads.issubset(found.found):
            continue
        found.order.append(code.column)
        found.found[code.column] = coded_again(code, sampled, column, sampled.price.is_high)
    for column in picked:
        if column.column not in found.found and not found.late:
            found.add(column.column)
    return found
