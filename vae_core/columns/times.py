"""Texts that are times as people and programs write them: days and hours without zeros, names of months, AM and PM.

`1/5/2024 9:05`, `01/15/2024 11:35:20 PM`, `24/Nov/2026:18:50:07 +0000`. Where all parts are digits of one width, `texts` has them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.columns.calendar import CLOCK, MOST_FRACTION, Calendar
from vae_core.columns.physical import Bools, Ints
from vae_core.columns.texts import ALL_BUT_A_FEW, LIKELY_YEARS, MOST_STRANGERS, TextPattern, bytes_of, joined
from vae_core.errors import CorruptArchive

Bytes = NDArray[np.uint8]
MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
WEEKDAYS = b"Mon Tue Wed Thu Fri Sat Sun".split()
FIRST_WEEKDAY = 3  # of 1970-01-01
CENTURY = 1969  # the first year of the hundred that two digits tell
MOST_BYTES = 96  # of a format
LEAST_TEXTS, LOOKED_AT = 64, 4_096  # of a sample
YEAR, MONTH, DAY, HOUR = ("Y", "y"), ("m", "-m", "b", "^b"), ("d", "-d"), ("H", "-H", "I", "-I")
MINUTE, SECOND, FRACTION, NOON = ("M",), ("S",), tuple(f"{n}f" for n in range(1, MOST_FRACTION + 1)), ("p", "P")
IN_ORDER = (YEAR, MONTH, DAY, HOUR, MINUTE, SECOND, FRACTION)
_ITEM = re.compile(r"%(-[mdHI]|\^b|[1-9]f|[YymbdHIMSpPa%])|([^%])", re.DOTALL)
_CLOCKS: tuple[tuple[str, ...], ...] = ((),)
_WITH_NAMES: tuple[tuple[str, ...], ...] = (("d", "Y"), ("Y", "d"), ("d", "y"))
_OF_DIGITS: tuple[tuple[str, ...], ...] = (
    ("Y", "m", "d"), ("m", "d", "Y"), ("d", "m", "Y"), ("y", "m", "d"), ("m", "d", "y"), ("d", "m", "y"),
)  # fmt: skip
_RUN = re.compile(r"[0-9]+|[A-Za-z]+|[^0-9A-Za-z]+")
_NAMES = {name.decode().lower(): "b" for name in MONTHS} | {name.decode().lower(): "a" for name in WEEKDAYS} | {"am": "p", "pm": "p"}


@dataclass(frozen=True, slots=True)
class TimeText(TextPattern):
    """The code of a text is the time that it is, in units of its last part, since 1970, or without a date since midnight.

    format : as strftime has it in English, with `%-m` and its like without zeros, `%^b` for JAN, `%P` for am, `%3f` for a fraction
    """

    format: str

    @property
    def items(self) -> tuple[str | bytes, ...]:
        """The parts by their names, and the bytes between them. Raises CorruptArchive where it is no format of a time."""
        return _items(self.format)

    @property
    def parts(self) -> list[str]:
        """The parts by their names."""
        return [item for item in self.items if isinstance(item, str)]

    @property
    def calendar(self) -> Calendar:
        """What the parts are parts of."""
        parts = self.parts
        n_of_day = sum(part in names for part in parts for names in (HOUR, MINUTE, SECOND))
        fraction = sum(int(part[0]) for part in parts if part in FRACTION)
        has_date = any(part in YEAR for part in parts)
        return Calendar("YMD" if has_date else CLOCK, 8 * has_date + 2 * n_of_day + fraction)

    def _read(self, body: pa.Array) -> tuple[Ints, Bools]:
        data, offsets = bytes_of(body)
        reader, found = _Reader(data, offsets[:-1].astype(np.int64), offsets[1:]), dict[str, Ints]()
        for item in self.items:
            if isinstance(item, bytes):
                reader.skip(item)
            else:
                found[item] = reader.part(item)
        good = reader.good & (reader.at == reader.stop)
        values, is_time = self.calendar.ticks(_in_order(found))
        sure = np.flatnonzero(good & is_time)
        return self._as_written(body, values[sure], sure)  # zeros in front, another weekday, hour 13 PM

    def _write(self, values: Ints) -> pa.Array:
        calendar = self.calendar
        named = dict(zip(_kinds(self.items), calendar.numbers(values), strict=True))
        if "y" in self.items and not ((named[YEAR] >= CENTURY) & (named[YEAR] < CENTURY + 100)).all():
            raise CorruptArchive("a code is no time of a year that two digits tell")
        pieces, kept = list[Bytes](), list[Bools]()
        for item in self.items:
            cells, counts = _written(item, named, values // calendar.ticks_of_day, len(values))
            pieces.append(cells)
            kept.append(counts)
        taken = np.concatenate(kept, axis=1)
        return joined(np.concatenate(pieces, axis=1)[taken], taken.sum(axis=1))

    def to_json(self) -> dict[str, object]:
        """Small JSON; `times_from_json` is the inverse."""
        return {"t": "times", "f": self.format}


def times_from_json(said: object) -> TimeText:
    """The inverse of TimeText.to_json. Raises CorruptArchive."""
    if not isinstance(said, str):
        raise CorruptArchive(f"a format of times is {str(said)[:60]}")
    found = TimeText(said)
    if not found.calendar.is_written:
        raise CorruptArchive(f"a format of times tells none: {said[:60]!r}")
    return found


@lru_cache(64)
def _items(said: str) -> tuple[str | bytes, ...]:
    found, parts, at = list[str | bytes](), list[str](), 0
    while at < len(said) and len(said.encode("utf-8", "replace")) <= MOST_BYTES:
        match = _ITEM.match(said, at)
        if match is None:
            break
        at = match.end()
        literal = "%" if match[1] == "%" else match[2]
        if literal is None:
            found.append(match[1])
            parts.append(match[1])
        else:
            found.append(literal.encode("utf-8", "replace"))
    has = [sum(part in names for part in parts) for names in IN_ORDER]
    halves, noons = sum(part in ("I", "-I") for part in parts), sum(part in NOON for part in parts)
    of_date, of_day = has[:3], has[3:]
    is_date, is_time = of_date == [1, 1, 1], of_day == sorted(of_day, reverse=True) and max(of_day) <= 1
    is_text = at == len(said) and said != "" and not any(0xD800 <= ord(character) < 0xE000 for character in said)
    is_told = is_time and (is_date or not any(of_date)) and halves == noons and parts.count("a") <= is_date
    if not is_text or not is_told:
        raise CorruptArchive(f"a format of times is {said[:60]!r}")
    return tuple(found)


def _kinds(items: Sequence[str | bytes]) -> list[tuple[str, ...]]:
    """The kinds of parts there are, in the order a calendar has them."""
    return [names for names in IN_ORDER if any(item in names for item in items)]


def _in_order(found: dict[str, Ints]) -> list[Ints]:
    """Numbers as a calendar has them: years in full, hours from 0 on."""
    told = list[Ints]()
    for names in IN_ORDER:
        for name in names:
            if name not in found:
                continue
            number = found[name]
            if name == "y":
                number = number + np.where(number < CENTURY % 100, CENTURY - CENTURY % 100 + 100, CENTURY - CENTURY % 100)
            elif name in ("I", "-I"):
                number = number % 12 + 12 * found[next(noon for noon in NOON if noon in found)]
            told.append(number)
    return told


class _Reader:
    """Places in (n,) texts, which go on from part to part.

    data : bytes end to end      at, stop : (n,) where each text is read next, and where it ends      good : (n,) whether all was as asked
    """

    def __init__(self, data: Bytes, at: Ints, stop: Ints) -> None:
        self.data, self.at, self.stop, self.good = data, at, stop, np.ones(len(at), np.bool_)

    def _bytes(self) -> tuple[Bytes, Bools]:
        """(n,) the next byte of each, and whether there is one."""
        left = self.at < self.stop
        return self.data[np.where(left, self.at, 0)], left

    def skip(self, literal: bytes) -> None:
        """Bytes that have to stand there."""
        for byte in literal:
            found, left = self._bytes()
            self.good &= left & (found == byte)
            self.at = self.at + 1

    def part(self, name: str) -> Ints:
        """(n,) numbers: of months and days from 1 on, of noon 0 or 1; of weekdays nothing, as they follow from the date."""
        if name == "a":
            self.at = self.at + 3
            return np.zeros(len(self.at), np.int64)
        if name in NOON or name in ("b", "^b"):
            letters = [self._letter() for _ in range(2 if name in NOON else 3)]
            if name in NOON:
                self.good &= ((letters[0] == ord("a")) | (letters[0] == ord("p"))) & (letters[1] == ord("m"))
                afternoon: Ints = (letters[0] == ord("p")).astype(np.int64)
                return afternoon
            said = (letters[0] << 16) + (letters[1] << 8) + letters[2]
            names = np.array([int.from_bytes(month.lower(), "big") for month in MONTHS])
            order = names.argsort()
            month: Ints = 1 + order[np.minimum(names[order].searchsorted(said), len(names) - 1)].astype(np.int64)
            self.good &= names[month - 1] == said
            return month
        least, most = (1, 2) if name.startswith("-") else (4, 4) if name == "Y" else (int(name[0]),) * 2 if name in FRACTION else (2, 2)
        value, going = np.zeros(len(self.at), np.int64), np.ones(len(self.at), np.bool_)
        for k in range(most):
            byte, left = self._bytes()
            digit = byte - np.uint8(48)  # wraps: anything else is over 9
            going &= left & (digit < 10)
            if k < least:
                self.good &= going
            value = np.where(going, value * 10 + digit, value)
            self.at = self.at + going
        return value

    def _letter(self) -> Ints:
        byte, left = self._bytes()
        self.good &= left
        self.at = self.at + 1
        return byte.astype(np.int64) | 32


def _written(item: str | bytes, named: dict[tuple[str, ...], Ints], days: Ints, n: int) -> tuple[Bytes, Bools]:
    """(n, width) characters of an item, and which of them count. days: since 1970"""
    if isinstance(item, bytes):
        cells = np.broadcast_to(np.frombuffer(item, np.uint8), (n, len(item)))
        return cells, np.ones(cells.shape, np.bool_)
    if item == "a":
        return _of_table(WEEKDAYS, (days + FIRST_WEEKDAY) % 7)
    if item in NOON:
        return _of_table([b"AM", b"PM"] if item == "p" else [b"am", b"pm"], (named[HOUR] >= 12).astype(np.int64))
    number = next(numbers for names, numbers in named.items() if item in names)
    if item in ("b", "^b"):
        return _of_table(MONTHS if item == "b" else [month.upper() for month in MONTHS], number - 1)
    if item in ("I", "-I"):
        number = (number - 1) % 12 + 1
    width = 4 if item == "Y" else int(item[0]) if item in FRACTION else 2
    cells, rest = np.empty((n, width), np.uint8), number % 10**width
    for k in reversed(range(width)):
        rest, digit = np.divmod(rest, 10)
        cells[:, k] = digit + 48
    counts = np.ones(cells.shape, np.bool_)
    if item.startswith("-"):
        counts[:, 0] = number >= 10
    return cells, counts


def _of_table(names: Sequence[bytes], which: Ints) -> tuple[Bytes, Bools]:
    cells = np.frombuffer(b"".join(names), np.uint8).reshape(len(names), -1)[which]
    return cells, np.ones(cells.shape, np.bool_)


def find_times(body: pa.Array) -> TimeText | None:
    """How nearly all of a sample's texts, (n,) large_binary without nulls, are times of likely years; None where they are not, where
    month and day may be either way round, or where there are too few to tell."""
    if len(body) < LEAST_TEXTS:
        return None
    places = np.linspace(0, len(body) - 1, min(len(body), LOOKED_AT)).astype(np.int64)
    texts = [text.decode("utf-8", "replace") for text in body.take(pa.array(places)).to_pylist() if len(text) <= MOST_BYTES]
    cut = [tuple(_RUN.findall(text)) for text in texts]
    shapes = Counter(tuple(_shape(run) for run in runs) for runs in cut)
    shape, n_alike = shapes.most_common(1)[0] if shapes else ((), 0)
    if n_alike < (1 - MOST_STRANGERS) * len(places):
        return None
    alike = [runs for runs in cut if tuple(_shape(run) for run in runs) == shape]
    likely = list[TimeText]()
    for said in _formats(shape, list(zip(*alike, strict=True))):
        try:
            found = times_from_json(said)
        except CorruptArchive:
            continue
        values, fits = found.numbers(body)
        if fits.sum() < (1 - MOST_STRANGERS) * len(body):
            continue
        if found.calendar.order == CLOCK:
            _, are_clocks = found.numbers(pa.array(["".join(runs).encode() for runs in alike], pa.large_binary()))
            if are_clocks.sum() < ALL_BUT_A_FEW * len(alike):
                continue
        else:
            years = found.calendar.numbers(values[fits])[0]
            if ((years < LIKELY_YEARS[0]) | (years > LIKELY_YEARS[1])).sum() > MOST_STRANGERS * len(body):
                continue
        likely.append(found)
    return likely[0] if len(likely) == 1 else None


def _shape(run: str) -> str:
    """What a run is for, as far as it says: a number, a name, or itself."""
    return "0" if run.isdigit() else _NAMES.get(run.lower(), run)


def _formats(shape: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[str]:
    """Formats that texts of a shape may have been written in. columns: of each run what it is in each text"""
    numbers, names = [k for k, what in enumerate(shape) if what == "0"], [what for what in shape if what in ("a", "b", "p")]
    if max([names.count(what) for what in set(names)], default=0) > 1:
        return
    has_name = "b" in names
    between = [shape[before + 1] if after == before + 2 else "" for before, after in pairwise(numbers)]
    n_colons = next((k for k, what in enumerate(between) if what != ":"), len(between))
    if not has_name and n_colons and between[n_colons:] in ([], ["."], [","]):
        dates, places = _CLOCKS, [(numbers[:0], numbers)]
    else:
        dates, n_date = _WITH_NAMES if has_name else _OF_DIGITS, 2 if has_name else 3
        places = [(numbers[:n_date], numbers[n_date:])]
        if n_colons and len(numbers) == n_colons + 1 + n_date:  # the time of the day is first
            places.append((numbers[-n_date:], numbers[:-n_date]))
    hour = "I" if "p" in names else "H"
    for date, (of_date, of_day) in product(dates, places):
        if len(of_date) < len(date):
            continue
        kinds = dict(zip([*of_date, *of_day], [*date, *(hour, "M", "S", "f")[: len(of_day)]], strict=False))
        said = [_as_format(what, kinds.get(k, ""), columns[k], shape[k - 1] if k else "") for k, what in enumerate(shape)]
        if None not in said:
            yield "".join(part for part in said if part is not None)


def _as_format(what: str, kind: str, runs: Sequence[str], before: str) -> str | None:
    """A run in a format; None where it cannot be what it is to be. runs: what it is in each text, before: what stands before it"""
    first, lengths = runs[0], {len(run) for run in runs}
    if what == "a":
        return "%a"
    if what == "b":
        return "%^b" if all(run.isupper() for run in runs) else "%b"
    if what == "p":
        return "%P" if all(run.islower() for run in runs) else "%p"
    if what != "0":
        return what.replace("%", "%%")
    if not kind or (kind == "f" and before not in (".", ",")):
        return first if len(set(runs)) == 1 else None  # an offset from UTC
    if kind == "f":
        return f"%{len(first)}f" if len(lengths) == 1 and len(first) <= MOST_FRACTION else None
    if kind in ("m", "d", "H", "I") and lengths != {2}:
        return f"%-{kind}" if lengths <= {1, 2} and not any(len(run) == 2 and run[0] == "0" for run in runs) else None
    return f"%{kind}" if lengths == {4 if kind == "Y" else 2} else None
