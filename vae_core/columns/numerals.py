"""Texts that say a number as long as it is, with what stands before and behind it: `9.5` and `17.25` in hundredths, `-$1,299.00`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_core.coders.fields.places import FIXED, KEPT_ONE, STRIPPED, Written, lengths_of, write
from vae_core.columns.physical import Bools, Ints
from vae_core.columns.texts import MOST_STRANGERS, TextPattern, bytes_of, joined
from vae_core.errors import CorruptArchive

MOST_DIGITS = 18
MOST_AFFIX = 24  # bytes before a number, and behind it
MOST_BYTES = 128  # of a text that is looked at: of longer ones none is a number
LEAST_TEXTS, LOOKED_AT = 64, 4_096  # of a sample
ALIKE = 0.99  # of the numbers looked at: those that have no more decimals than are told
MOST_NAMED = 0.5  # of a sample, what may be one and the same text, as `NA`, instead of numbers
POINTS, GROUPS = b".,", b",. '\0"  # what may stand before decimals, and between thousands; 0: nothing does
Bytes = NDArray[np.uint8]
_TENS = np.array([10**k for k in range(MOST_DIGITS + 1)], np.int64)


@dataclass(frozen=True, slots=True)
class Signs:
    """What a number has beside its digits.

    point : of POINTS        group : of GROUPS, stands behind each thousand of FIXED numbers
    first : whether the minus stands before what is before the number, which begins with another byte
    """

    point: int = ord(".")
    group: int = 0
    first: bool = False

    def likely(self) -> re.Pattern[bytes]:
        """(before, minus, digits before the point, decimals, behind) of a text, as far as a sample is to tell."""
        group = re.escape(bytes([self.group])) if self.group else b""
        whole = rb"[1-9][0-9]{0,2}(?:" + group + rb"[0-9]{3})+|[0-9]{1,3}" if group else rb"[0-9]+"
        return re.compile(rb"([^0-9]*?)(-?)(" + whole + rb")(?:" + re.escape(bytes([self.point])) + rb"([0-9]+))?([^0-9]*)", re.DOTALL)


PLAIN = Signs()
SIGNS = [PLAIN, *(Signs(ord(point), ord(group)) for point, group in (".,", ",\0", ",.", ". ", ", ", ".'", ",'"))]


@dataclass(frozen=True, slots=True)
class NumberText(TextPattern):
    """The code of a text is the number it says, in units of its last decimal that is not always 0.

    before, behind : at most MOST_AFFIX bytes each        written : how the number is, in FIXED, STRIPPED or KEPT_ONE
    zeros          : of the decimals of FIXED numbers, the last that are 0        signs : what it has beside its digits
    """

    before: bytes
    behind: bytes
    written: Written
    zeros: int = 0
    signs: Signs = PLAIN

    def _read(self, body: pa.Array) -> tuple[Ints, Bools]:
        data, offsets = bytes_of(body)
        start, stop, negative = offsets[:-1] + len(self.before), offsets[1:] - len(self.behind), np.zeros(len(body), np.bool_)
        if self.signs.first:
            negative = data[np.where(offsets[:-1] < offsets[1:], offsets[:-1], 0)] == ord("-")
            start = start + negative
        longest = MOST_DIGITS + 3 + MOST_DIGITS // 3  # a sign, a zero, a point, and what groups digits
        good = (stop > start) & (stop - start <= longest)
        rows = np.flatnonzero(good)
        start, length, negative = start[rows], (stop - start)[rows], negative[rows]
        values, n_digits, n_decimals = (np.zeros(len(rows), np.int64) for _ in range(3))
        pointed, likely = np.zeros(len(rows), np.bool_), np.ones(len(rows), np.bool_)
        for k in range(int(length.max(initial=0))):
            live = length > k
            byte = data[np.where(live, start + k, 0)]
            digit = byte - np.uint8(48)  # wraps: anything else is over 9
            is_digit = live & (digit < 10)
            values = np.where(is_digit, values * 10 + digit, values)
            n_digits += is_digit
            n_decimals += is_digit & pointed
            is_point = live & (byte == self.signs.point) & ~pointed
            between = (byte == self.signs.group) if self.signs.group and k else False
            if k == 0 and not self.signs.first:
                negative = byte == ord("-")
                between = negative
            likely &= ~live | is_digit | is_point | between
            pointed |= is_point
        more = self.decimals - n_decimals
        likely &= (n_digits > 0) & (n_digits <= MOST_DIGITS + 1) & (values >= 0) & (more <= MOST_DIGITS) & (more >= -self.zeros)
        more = np.where(likely, more, 0)
        likely &= values < _TENS[np.minimum(MOST_DIGITS - more, MOST_DIGITS)]  # 19 digits, the first of which is 0
        values = np.where(likely, values * _TENS[np.maximum(more, 0)] // _TENS[np.maximum(-more, 0)], 0)
        values = np.where(negative, -values, values)
        likely &= np.abs(values) < _TENS[MOST_DIGITS - self.zeros]
        return self._as_written(body, values[likely], rows[likely])  # zeros in front, a sign of 0, decimals that ought to be 0

    @property
    def decimals(self) -> int:
        """Of the numbers, those that are not always 0."""
        return self.written.decimals - self.zeros

    @property
    def is_amount(self) -> bool:
        """Whether no letter stands before the number, or it has decimals: else it is a name."""
        return self.decimals > 0 or not any(character.isalpha() for character in self.before.decode("utf-8", "replace"))

    def _write(self, values: Ints) -> pa.Array:
        most = int(_TENS[MOST_DIGITS - self.zeros])
        if not -most < int(values.min()) <= int(values.max()) < most:
            raise CorruptArchive(f"a code is no number of {MOST_DIGITS - self.zeros} digits")
        values = values * _TENS[self.zeros]
        lengths = lengths_of(self.written, values)
        cells, counted = write(self.written, values, lengths)
        if self.signs.point != ord("."):
            cells[cells == ord(".")] = self.signs.point
        if self.signs.group:
            cells, counted = _grouped(cells, counted, self.signs.group, self.written.decimals)
        if self.signs.first:
            counted &= cells != ord("-")
        if self.before or self.behind or self.signs.first:
            minus = np.full((len(values), 1), ord("-"), np.uint8)[:, : int(self.signs.first)]
            affixes = [np.frombuffer(affix, np.uint8) for affix in (self.before, self.behind)]
            before, behind = (np.broadcast_to(affix, (len(values), len(affix))) for affix in affixes)
            is_negative = (values < 0)[:, None][:, : int(self.signs.first)]
            cells = np.concatenate([minus, before, cells, behind], axis=1)
            counted = np.concatenate([is_negative, np.ones(before.shape, np.bool_), counted, np.ones(behind.shape, np.bool_)], axis=1)
        return joined(cells[counted], counted.sum(axis=1))

    def to_json(self) -> dict[str, object]:
        """Small JSON; `numerals_from_json` is the inverse."""
        written = [self.written.how, self.written.decimals, self.written.width, self.zeros]
        signs = {} if self.signs == PLAIN else {"c": [self.signs.point, self.signs.group, int(self.signs.first)]}
        return {"t": "numbers", "w": written, "b": list(self.before), "a": list(self.behind), **signs}


def _grouped(cells: Bytes, counted: Bools, group: int, decimals: int) -> tuple[Bytes, Bools]:
    """(n, longest) characters, right-aligned, and which of them count, with a sign between each three digits before the point."""
    n, tail = len(cells), decimals + (decimals > 0)
    pieces, kept, stop = [cells[:, cells.shape[1] - tail :]], [counted[:, cells.shape[1] - tail :]], cells.shape[1] - tail
    while stop > 0:
        start = max(0, stop - 3)
        pieces.append(cells[:, start:stop])
        kept.append(counted[:, start:stop])
        if start:
            pieces.append(np.full((n, 1), group, np.uint8))
            kept.append((counted[:, start - 1] & (cells[:, start - 1] != ord("-")))[:, None])
        stop = start
    return np.concatenate(pieces[::-1], axis=1), np.concatenate(kept[::-1], axis=1)


def _signs_from_json(said: object) -> Signs | None:
    match said:
        case [int(point), int(group), int(first)] if (
            all(type(number) is int for number in (point, group, first))
            and point in list(POINTS) and group in list(GROUPS) and point != group and first in (0, 1)
        ):  # fmt: skip
            return Signs(point, group, bool(first))
    return None


def numerals_from_json(written: object, before: object, behind: object, signs: object = (ord("."), 0, 0)) -> NumberText:
    """The inverse of NumberText.to_json. Raises CorruptArchive."""
    match written, before, behind:
        case [int(how), int(decimals), int(width), int(zeros)], list(first), list(last) if (
            all(type(number) is int for number in (how, decimals, width, zeros, *first, *last))
            and all(0 <= byte < 256 for byte in (*first, *last)) and max(len(first), len(last)) <= MOST_AFFIX
            and how in (FIXED, STRIPPED, KEPT_ONE) and 0 <= decimals <= MOST_DIGITS and 0 <= width <= MOST_DIGITS
            and 0 <= zeros <= (decimals if how == FIXED else 0) and (how == FIXED or not width)
            and (found := _signs_from_json(signs)) is not None and (how == FIXED or not found.group)
            and (not found.first or first[:1] not in ([], [ord("-")]))
        ):  # fmt: skip
            return NumberText(bytes(first), bytes(last), Written(how, decimals, width), zeros, found)
    raise CorruptArchive(f"a text says numbers as {str(written)[:40]} between {str(before)[:40]} and {str(behind)[:40]}")


def find_numerals(body: pa.Array) -> NumberText | None:
    """How nearly all of a sample's texts, (n,) large_binary without nulls, say a number, but for one that recurs; None where they do not,
    or there are too few to tell."""
    if len(body) < LEAST_TEXTS:
        return None
    some = body.take(pa.array(np.linspace(0, len(body) - 1, min(len(body), LOOKED_AT)).astype(np.int64))).to_pylist()
    best: tuple[int, NumberText] | None = None
    for signs in SIGNS:
        found = _likely(some, signs)
        n_strangers = None if found is None else _strangers(found, body)
        if found is not None and n_strangers is not None and (best is None or n_strangers < best[0]):
            best = n_strangers, found
            if not n_strangers:
                break
    return None if best is None else best[1]


def _strangers(found: NumberText, body: pa.Array) -> int | None:
    """How many texts are no numbers written so; None where these are many, but for one text again and again: it takes nothing to store,
    and where it stands is learned as where nulls do."""
    _, fits = found.numbers(body)
    n_strangers = len(body) - int(fits.sum())
    if n_strangers <= MOST_STRANGERS * len(body):
        return n_strangers
    commonest = max(pc.value_counts(body.filter(pa.array(~fits))).field("counts").to_pylist())
    return n_strangers if commonest <= MOST_NAMED * len(body) and n_strangers - commonest <= MOST_STRANGERS * len(body) else None


def _likely(some: Sequence[bytes], signs: Signs) -> NumberText | None:
    """How some texts say numbers with signs such as these, if half of them do."""
    likely = signs.likely()
    matches = [match for text in some if len(text) <= MOST_BYTES and (match := likely.fullmatch(text)) is not None]
    affixes = Counter((match[1], match[5]) for match in matches)
    (before, behind), _ = affixes.most_common(1)[0] if matches else ((b"", b""), 0)
    if before.startswith(b"-") and not before.startswith(b"--") and (before[1:], behind) in affixes:
        before = before[1:]
    same = {(before, behind), *([(b"-" + before, behind)] if before else [])}
    alike = [match for match in matches if (match[1], match[5]) in same]
    if len(alike) < (1 - MOST_NAMED) * len(some) or max(len(before), len(behind)) >= MOST_AFFIX:
        return None
    if before and not before.startswith(b"-") and (b"-" + before, behind) in affixes:
        signs = replace(signs, first=True)
    elif before and all(match[2] for match in alike):
        before += b"-"  # of names, not of amounts
    found = _written(before, behind, [(match[3].replace(bytes([signs.group]), b""), match[4] or b"") for match in alike])
    return None if found is None or (signs.group and found.written.how != FIXED) else replace(found, signs=signs)


def _written(before: bytes, behind: bytes, said: list[tuple[bytes, bytes]]) -> NumberText | None:
    """How numbers are written of which these are the digits before the point and behind it."""
    n_decimals = np.array([len(decimals) for _, decimals in said])
    usual = int(np.bincount(np.minimum(n_decimals, MOST_DIGITS + 1)).argmax())
    if usual > MOST_DIGITS:
        return None
    zeros = {len(whole) for whole, _ in said if len(whole) > 1 and whole.startswith(b"0")}
    if (n_decimals == usual).sum() >= (1 - MOST_STRANGERS) * len(said):
        told = [len(decimals.rstrip(b"0")) for _, decimals in said if len(decimals) == usual]
        used = int(np.quantile(told, ALIKE, method="higher"))
        shortest = min(len(whole) for whole, _ in said)
        width = shortest + usual if zeros == {shortest} else 0
        return NumberText(before, behind, Written(FIXED, usual, width), usual - used) if width <= MOST_DIGITS else None
    most = int(np.quantile(n_decimals, ALIKE, method="higher"))
    if most > MOST_DIGITS:
        return None
    whole_ones = sum(decimals == b"0" for _, decimals in said)
    return NumberText(before, behind, Written(KEPT_ONE if whole_ones > (n_decimals == 0).sum() else STRIPPED, most))
