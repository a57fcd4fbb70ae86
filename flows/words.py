"""How sizes, numbers and names are written for people."""

from __future__ import annotations

import unicodedata


def human_bytes(n_bytes: int) -> str:
    """Decimal units with three digits: 5.21 MB. Bytes stay whole below 1,000."""
    size = float(abs(n_bytes))
    if size < 1000:
        return f"{n_bytes} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        size /= 1000
        if size < 999.5 or unit == "PB":
            digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
            return f"{'-' if n_bytes < 0 else ''}{size:.{digits}f} {unit}"
    raise AssertionError("unreachable")


def human_number(value: float | None) -> str:
    """Three significant digits, whole numbers from 1,000 on; 0 for nothing, a dash for unknown."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if 999.5 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def human_count(value: int | None) -> str:
    """A whole number with thousands apart; a dash for unknown."""
    return "–" if value is None else f"{value:,}"


def counted(n: int, noun: str) -> str:
    """A number of things: '1 row', '2 rows'."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def human_saving(percent: float) -> str:
    """A saving or a loss in words: '43.2 % smaller'."""
    if abs(percent) < 0.05:
        return "the same size"
    return f"{abs(percent):.1f} % {'smaller' if percent > 0 else 'larger'}"


def printable(text: str) -> str:
    """Text that cannot move the cursor: control characters and the like as escapes."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in text
    )


def cells(text: str) -> int:
    """Terminal cells a text takes: two for wide East Asian characters, none for combining marks."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def clip(text: str, limit: int) -> str:
    """The text, cut with an ellipsis to at most `limit` cells."""
    if cells(text) <= limit:
        return text
    kept = ""
    for c in text:
        if cells(kept + c) > limit - 1:
            break
        kept += c
    return kept + "…"
