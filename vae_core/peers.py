"""What one column takes by the best conventional coding: exactly, or about where its stream takes less than all of them.

Most codings are ruled out without their zstd 19, which is a hundred times as slow as a first look. A ladder of looks at every row,
level 3, 9 and 12, each with the least that 19 ever made of it, leaves those that may still beat the best so far (NOTES.md, "The peers
of learned columns").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.coders.conventional import STORED, Weighed, candidates_for, parquet_encoding
from vae_core.columns import Codes, ColumnPlan, one_array
from vae_core.columns.blobs import pack_values
from vae_core.columns.choose import MOST_DISTINCT_SHARE
from vae_core.columns.dictionaries import ValueDictionary
from vae_core.columns.integers import IntegerLattice
from vae_core.columns.profile import storage_of
from vae_core.latents import Way, slice_codes
from vae_core.layout import is_native, uses_codes

FAR_BELOW = 0.8  # of what a sample says of a coding: a stream below this takes less, whatever all rows would say
Looks = Mapping[str, tuple[tuple[int, float], ...]]
LOOKS: Looks = {
    "plain": ((3, 0.55), (9, 0.8), (12, 0.88)),
    "split": ((3, 0.5), (9, 0.55)),
    "dictionary": ((3, 0.85), (9, 0.92)),
    "delta": ((3, 0.8), (9, 0.88)),
}
"""Parquet encoding -> (zstd level, the least that 19 makes of its bytes where that is best of all)."""
TEXT_LOOKS: Looks = {
    "plain": ((3, 0.35), (9, 0.48)),
    "split": ((3, 0.35),),
    "dictionary": ((3, 0.6), (9, 0.7)),
    "delta": ((3, 0.5), (9, 0.7)),
}
"""The same of values without codes, or most of which do not recur: texts, mostly, of which 19 makes far less."""
LIKELY: Looks = {
    "plain": ((3, 0.68), (9, 0.85)),
    "split": ((3, 0.68), (9, 0.8)),
    "dictionary": ((3, 0.85), (9, 0.9)),
    "delta": ((3, 0.75), (9, 0.88)),
}
"""The same of a part of the rows, in 98 of 100 columns of 16 tables where it is within 15 % of the best."""
RECURS = 8  # times a value of a dictionary is there, for its texts to take little of the column
FAST = 3
HOPELESS = 0.65  # the same of a first look at a sample
NEAR_BEST, HEAD_ROWS = 1.15, 16_384
TWINS = 1.03  # of a first look: what so little tells apart
SLACK = {"plain": 64, "split": 64, "dictionary": 1024, "delta": 1024}  # bytes: what is smaller has ratios of its own, and these are quick
LONG, PART_ROWS, PART_RUNS = 131_072, 32_768, 8  # rows from which a part of them, in so many runs, tells of everything
LARGE = 32_768  # bytes: of a column that takes less, no sample tells enough
STEADY = 0.995  # of the best so far: what a sample puts below this is measured on every row
SAMPLED_LESS = 0.985  # a sampled rival is reported at so much of what its sample says
PART_MORE = 1.05  # of what pcodec takes, by a part of the rows: it pays for bins more often
TOLD_LESS = 0.9  # the same where nothing is measured on all rows: parts say 3 % too few bytes to 20 % too many
WINDOWS = {3: 1 << 21, 9: 1 << 22}  # level of zstd -> bytes that it looks back, where 19 looks back 2**23
FURTHER = 9  # a level that looks back further than a first look
SURE = 0.92  # of what a part says of a coding, beside a first look at all rows
FAR = 0.7  # of what a part of the rows says of every coding: a stream below this is learned, whatever all rows would say
FAR_ROWS = 65_536  # from which on a part is much less than all rows
RECURRING = 0.7  # of what a part says: what recurs far apart makes less of it in few columns


class Measure(Enum):
    """When it is measured what the best conventional coding takes of a column that is learned.

    NOW      : before it is learned
    IN_DOUBT : before, unless a part of the rows, or quick looks, leave no doubt that it takes more
    LATER    : after, where a part of the rows says that it takes more: the part may be wrong, so it has to be measured then
    """

    NOW = "now"
    IN_DOUBT = "in doubt"
    LATER = "later"


def whole(coding: str, n_bytes: float, dictionary: float) -> float:
    """Bytes of a coding with the dictionary it needs."""
    return n_bytes + (dictionary if uses_codes(coding) else 0)


def of_texts(plan: ColumnPlan, array: pa.Array, learned: float = math.inf) -> int:
    """Bytes of the best conventional coding of a column of texts, whatever the plan makes of them: as they are, or where they recur the
    codes of a dictionary of all of them, which is counted. About that, where these take far more than a stream of `learned` bytes."""
    races, texts = [Race(Way(plan, None, raw=True), array, 0.0)], storage_of(array)
    values = texts.unique().drop_null()
    if 0 < len(values) <= MOST_DISTINCT_SHARE * (len(texts) - texts.null_count):
        values = values.take(pc.array_sort_indices(values))
        coded = ValueDictionary(values)
        as_codes = replace(plan, kind="categorical", transform=coded, n_levels=len(values), lo=0, hi=len(values) - 1, fill=0)
        races.append(Race(Way(as_codes, coded.encode(texts, 0)), array, len(pack_values(values, as_fields=False))))
    found = list[float]()
    for race in races:
        told = race.about(learned) if learned < math.inf else None
        found.append(min(whole(name, n, race.dictionary) for name, n in race.exact().items()) if told is None else told)
    return round(min(found))


class Race:
    """The codings of one column over all its rows, the most promising first.

    dictionary : bytes in the model that codings of codes need: they weigh in what is reported, not in what is stored
    """

    def __init__(self, way: Way, array: pa.Array, dictionary: float) -> None:
        self.way, self.array, self.dictionary = way, array, dictionary
        self.weighed = Weighed(way.plan, array, way.codes)
        names = [name for name in candidates_for(way.plan) if not way.raw or not uses_codes(name)]
        self.slow = [name for name in names if is_native(name) and not (name.startswith("parquet-") and self._is_beaten(name))]
        self.quick = [name for name in names if name.startswith("pco")]
        self.ipc = "ipc" in names
        self.mostly_new = way.codes is None or not recur(way.plan, len(array))

    def _is_beaten(self, name: str) -> bool:
        """Whether the codes are the values moved and scaled, with nothing beside them, so that Parquet has less to do with them."""
        plan, codes = self.way.plan, self.way.codes
        moved = isinstance(plan.transform, IntegerLattice) and not pa.types.is_boolean(plan.value_type)
        return codes is not None and codes.misfits is None and moved and parquet_encoding(name) != "delta"

    def exact(self) -> dict[str, int]:
        """Coding -> bytes of the best to store, the best to report and what else had to be measured to know them."""
        found = self.weighed.sizes(self.quick)
        for name in self._order(self.slow):
            stored = min(found.values(), default=math.inf)
            reported = min((whole(other, n, self.dictionary) for other, n in found.items()), default=math.inf)
            if self._may_be_below(name, stored if uses_codes(name) else reported):
                found |= self.weighed.sizes([name])
        if found:
            found |= self.weighed.sizes(self._twins_of(min(found, key=lambda name: found[name])))
        return found | self.weighed.sizes(["ipc"]) if self._ipc_is_near(found) else found

    def _twins_of(self, name: str) -> list[str]:
        """What was left out for being alike."""
        first = self.weighed.sizes([other for other in self.slow if parquet_encoding(other) == parquet_encoding(name)], FAST)
        return [other for other in first if name in first and first[other] <= TWINS * first[name]]

    def left_open(self, learned: float, measure: Measure) -> float | None:
        """Bytes, about, of the best to store, where a stream of `learned` bytes takes less so far as it has to be known; None where it
        may not."""
        if measure is Measure.NOW:
            return None
        return self.likely_above(learned) if measure is Measure.LATER else self.far_above(learned) or self.above(learned)

    def far_above(self, learned: float) -> float | None:
        """Bytes, rather too few, of the best to report where a stream of `learned` bytes takes far less: by a part of the rows, a tenth
        of the time of `about`. None where it may not, or where rows are few."""
        if len(self.array) < FAR_ROWS or self.weighed.plain_bytes > WINDOWS[FURTHER]:
            return None
        return self._above_by_part(learned / FAR, self._scale * self._recurring(self._scale), self.dictionary)

    def likely_above(self, learned: float) -> float | None:
        """Bytes, about, of the best to store where a stream of `learned` bytes takes less by a part of the rows, be it little. What recurs
        far apart is looked for where it would tell."""
        if len(self.array) < FAR_ROWS:
            return None
        alone = self._scale / PART_MORE
        if (told := self._above_by_part(learned / RECURRING, self._scale, 0.0, LIKELY, alone)) is not None:
            return told
        recurring = self._recurring(self._scale)
        return self._above_by_part(learned, self._scale * recurring, 0.0, LIKELY, alone if recurring > RECURRING else None)

    @property
    def _scale(self) -> float:
        """All rows over those of the part."""
        return len(self.array) / len(self.part.array)

    def _above_by_part(
        self, goal: float, share: float, dictionary: float, looks: Looks = LOOKS, alone: float | None = None
    ) -> float | None:
        """Bytes, rather too few, of the best with a dictionary of so many where the part says that it takes more than goal; share: all
        bytes over its bytes, alone: those of pcodec, which sees less of what recurs."""
        quick = self.part.sizes(self.quick)
        best = min((whole(name, (alone or share) * n, dictionary) for name, n in quick.items()), default=math.inf)
        if best <= goal:
            return None
        first = self.part.sizes(self.slow, FAST)
        for name in sorted(first, key=lambda name: first[name]):
            beside = dictionary if uses_codes(name) else 0.0
            told = beside + share * self._least_of_part(name, (goal - beside) / share, looks)
            if told <= goal:
                return None
            best = min(best, told)
        return best

    def above(self, learned: float) -> float | None:
        """Bytes, too few, of the best to store where a stream of `learned` bytes takes less; None where it may not. By looks at all rows
        that end where they tell; what 19 makes of these is told by a part of many rows, so far as that leaves no doubt."""
        if self.weighed.plain_bytes > WINDOWS[FAST]:
            return None
        quick = self.weighed.sizes(self.quick)
        best: float = min(quick.values(), default=math.inf)
        if best <= learned or (self.ipc and self._ipc_is_near(quick)):
            return None
        first = self.weighed.sizes(self.slow, FAST)
        for name in sorted(first, key=lambda name: first[name]):
            told = self._bound(name, learned)
            if told is None and len(self.array) >= FAR_ROWS and self.way.codes is not None:
                told = SURE * self._scaled(name, STORED)
            if told is None or told <= learned:
                told = self.weighed.sizes([name])[name]
            best = min(best, told)
            if best <= learned:
                return None
        return best

    def by_part(self) -> float:
        """About the bytes of the best to report, by the part: what recurs far apart is known of two codings, the others share it."""
        scale = self._scale
        best = min((whole(name, scale * n, self.dictionary) for name, n in self.part.sizes(self.quick).items()), default=math.inf)
        first = self.part.sizes(self.slow, FAST)
        share = scale * self._recurring(scale)
        for name in sorted(first, key=lambda name: first[name]):
            dictionary = self.dictionary if uses_codes(name) else 0.0
            best = min(best, dictionary + share * self._least_of_part(name, (best - dictionary) / share))
        return best

    def reported(self, learned: float, by_part: bool = False) -> int:
        """About the bytes of the best to report: exactly where a stream of `learned` bytes may take more; where it does, of the best to
        store, which the dictionary is no part of. by_part: as the part tells it, less what it may be too high."""
        if by_part:
            return max(round(TOLD_LESS * self.by_part()), math.ceil(learned))
        found = self.about(learned)
        if found is None:
            sizes = self.exact()
            found, stored = min(whole(name, n, self.dictionary) for name, n in sizes.items()), min(sizes.values())
            found = min(found, stored) if stored < learned else found
        return round(found)

    def _recurring(self, scale: float) -> float:
        """What a look at all rows makes of what it makes of the part: less than 1 where they have in common what is far apart."""
        found, level = 1.0, FAST if self.weighed.plain_bytes <= WINDOWS[FAST] else FURTHER
        for encoding in ("plain", "delta"):
            name = next((name for name in self.slow if parquet_encoding(name) == encoding and uses_codes(name)), None)
            if name is not None:
                seen, part = self.weighed.sizes([name], level), self.part.sizes([name], level)
                found = min(found, seen[name] / max(1.0, scale * part[name]))
        return found

    def _least_of_part(self, name: str, goal: float, looks: Looks = LOOKS) -> float:
        """The least that 19 makes of a coding of the part, by looks that end where they are above goal."""
        looks = TEXT_LOOKS if self.mostly_new and name.startswith("parquet-") else looks
        for level, least in looks[parquet_encoding(name)]:
            told = least * self.part.sizes([name], level)[name]
            if told > goal:
                return told
        return float(self.part.sizes([name])[name])

    def about(self, learned: float) -> float | None:
        """About the bytes of the best to report, rather too few than too many; None where a stream of `learned` bytes may take more."""
        found = {name: whole(name, n, self.dictionary) for name, n in self.weighed.sizes(self.quick).items()}
        best = min(found.values(), default=0.0)
        hopeful = [name for name in self.slow if self._is_kept(learned, best) and not self._is_hopeless(name, best)]
        for name in self._order(hopeful, for_report=True):
            long = len(self.array) > LONG and best > LARGE and parquet_encoding(name) in ("plain", "split")
            if not self._may_be_below(name, best - (self.dictionary if uses_codes(name) else 0), by_part=long):
                continue
            told = self._told(name) if long else 0.0
            if told < STEADY * best or learned >= FAR_BELOW * told:
                told = whole(name, self.weighed.sizes([name])[name], self.dictionary)
            else:
                told *= SAMPLED_LESS
            best = min(best, told)
            if not self._is_kept(learned, best):
                return None
        return best if self._is_kept(learned, best) else None

    def _is_kept(self, learned: float, best: float) -> bool:
        """Whether a stream takes less than what is stored by any coding, or so little that the dictionary is no matter."""
        return learned < max(FAR_BELOW * best, best - self.dictionary)

    def _is_hopeless(self, name: str, best: float) -> bool:
        """Whether a first look at the part will do: steps from row to row have nothing in common far apart."""
        if len(self.array) <= LONG or best <= LARGE or parquet_encoding(name) != "delta":
            return False
        first = self.part.sizes([name], FAST)
        return bool(first) and HOPELESS * first[name] * self._beside() > best

    def _order(self, names: Sequence[str], *, for_report: bool = False) -> list[str]:
        """What Parquet has to do, by a first look, best first. Of values and codes that are alike in it only one is kept."""
        first = self.weighed.sizes(names, FAST)
        sizes = {name: whole(name, n, self.dictionary) for name, n in first.items()}
        order = sorted(sizes, key=lambda name: sizes[name])
        if self.dictionary:
            return _untwinned(order, sizes, ("dictionary",)) if for_report else order
        return _untwinned(order, sizes, tuple(LOOKS))

    def _ipc_is_near(self, found: Mapping[str, int]) -> bool:
        """Whether an Arrow stream, all of which is zstd 19, is to be tried: by the first rows."""
        if not found or not self.ipc:
            return not found
        head = Weighed(self.way.plan, self.array.slice(0, HEAD_ROWS), None)
        return head.sizes(["ipc"])["ipc"] <= NEAR_BEST * min(head.sizes(found).values(), default=math.inf)

    def _may_be_below(self, name: str, goal: float, *, by_part: bool = False) -> bool:
        """Whether no look at a coding rules out that it takes less than goal. by_part: looks but the first are at the part alone."""
        return self._bound(name, goal, by_part=by_part) is None

    def _bound(self, name: str, goal: float, *, by_part: bool = False) -> float | None:
        """What a coding takes at least by the first look that has it above goal, None where none has."""
        encoding, first = parquet_encoding(name), self.weighed.sizes([name], FAST)[name]
        looks = TEXT_LOOKS if self.mostly_new and name.startswith("parquet-") else LOOKS
        for level, least in looks[encoding] if goal < math.inf else ():
            seen: float = first
            if level > FAST:
                seen = self._scaled(name, level) if by_part else self.weighed.sizes([name], level)[name]
            if (told := least * seen - SLACK[encoding]) > goal:
                return told
        return None

    def _scaled(self, name: str, level: int) -> float:
        """Bytes at a level, by what it makes of a first look on the part."""
        first = self.part.sizes([name], FAST)[name]
        return self.weighed.sizes([name], FAST)[name] * self.part.sizes([name], level)[name] / max(1, first)

    def _told(self, name: str) -> float:
        """What the part says of a coding: beside pcodec there, and by what 19 makes of a first look; the lower one."""
        n_bytes = self.part.sizes([name])[name]
        beside = whole(name, n_bytes, self.dictionary * len(self.part.array) / len(self.array)) * self._beside()
        return min(beside, whole(name, self._scaled(name, STORED), self.dictionary))

    def _beside(self) -> float:
        """Bytes of the best of pcodec over those on the part."""
        share = self.dictionary * len(self.part.array) / len(self.array)
        exact = self.weighed.sizes(self.quick)
        best = min(exact, key=lambda name: whole(name, exact[name], self.dictionary))
        return whole(best, exact[best], self.dictionary) / whole(best, self.part.sizes([best])[best], share)

    @cached_property
    def part(self) -> Weighed:
        """Rows from all over the column."""
        rows, codes = sampled(self.way, self.array, PART_ROWS, PART_RUNS)
        return Weighed(self.way.plan, rows, codes)


def reported_of_texts(race: Race, learned: float, by_part: bool = False) -> int:
    """What `of_texts` measures of a column whose numbers race, or less where these may be stored in less than its stream takes, `learned`.
    by_part: about that, rather too few, by a part of the rows."""
    plan, array = race.way.plan, race.array
    if by_part:
        part = race.part.array
        return max(round(TOLD_LESS * len(array) / max(1, len(part)) * of_texts(plan, part)), math.ceil(learned))
    stored = race.reported(learned)
    return stored if stored < learned else of_texts(plan, array, learned)


def recur(plan: ColumnPlan, n: int) -> bool:
    """Whether most of n values recur: not those of a dictionary that is hardly shorter than they are."""
    return not isinstance(plan.transform, ValueDictionary) or len(plan.transform) * RECURS <= n


def _untwinned(names: Sequence[str], sizes: Mapping[str, float], encodings: Sequence[str]) -> list[str]:
    """Codings, best first, without those that do to raw values what a better one does to their codes, or the reverse, for about as much."""
    kept: dict[str, str] = {}
    for name in names:
        encoding = parquet_encoding(name)
        twin = kept.get(encoding) if encoding in encodings else None
        if twin is None or sizes[name] > TWINS * sizes[twin]:
            kept[name if encoding in kept else encoding] = name
    return list(kept.values())


def sampled(way: Way, array: pa.Array, n_rows: int, n_runs: int) -> tuple[pa.Array, Codes | None]:
    """Runs of rows spread evenly over a column."""
    if len(array) <= n_rows:
        return array, way.codes
    run = n_rows // n_runs
    starts = [k * (len(array) - run) // (n_runs - 1) for k in range(n_runs)]
    rows = one_array(pa.chunked_array([array.slice(start, run) for start in starts], array.type))
    return rows, None if way.codes is None else _joined([slice_codes(way.codes, start, run, way.plan.width) for start in starts])


def _joined(parts: list[Codes]) -> Codes:
    """Codes of one column end to end."""
    states: NDArray[np.uint8] | None = None
    if any(part.state is not None for part in parts):
        states = np.concatenate([np.zeros(len(p.values), np.uint8) if p.state is None else p.state for p in parts])
    misfits = [part.misfits for part in parts if part.misfits is not None]
    values = np.concatenate([part.values for part in parts])
    return Codes(values, states, one_array(pa.chunked_array(misfits)) if misfits else None)
