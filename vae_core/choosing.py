"""How a column is stored where it is not learned, and what the report holds the learned coding against.

Exact wherever it decides what is stored: codings are ranked on a sample, what is near the best is measured on every row. A column
whose stream is far below all that is never stored another way. There pcodec is still measured on every row, and so is what a
sample shows to come near it; in long columns a larger sample says by how much less it takes, and a little is taken off for what
a sample may be wrong by (NOTES.md, "The peers of learned columns").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.coders import conventional, lattices
from vae_core.columns import Codes, decode_column, encode_column, one_array
from vae_core.columns.recode import with_worst_kept
from vae_core.columns.texts import DigitText
from vae_core.latents import ColumnState, Way, slice_codes
from vae_core.layout import UNIFORM, is_native, uses_codes
from vae_core.model import Model
from vae_core.tables import rmse_of
from vae_core.tolerance import LOSSLESS

RANK_ROWS = 16_384
NEAR_BEST = 1.15  # of the ranked sample: codings within this of the best are measured on everything
FAR_BELOW = 0.8  # of what a sample says of the conventional coding: a stream below this is kept, whatever the rest would say
LONG = 131_072  # rows from which a quarter of them is a sample of everything
FAST = 3  # the zstd level of a first look, and what 19 may make of its bytes: of what is stored, of what is only reported
FAST_SHRINKS, FAST_SHRINKS_CODED, FAST_SHRINKS_REPORTED, FAST_SHRINKS_ALL, DICTIONARY_SHRINKS = 0.5, 0.6, 0.65, 0.78, 0.93
SLACK = 512  # bytes: small columns have ratios of their own
SAMPLED_LESS = 0.99  # a sampled rival is reported at so much of what its sample says
NATIVE_BYTES = 40  # of a Parquet footer for each native column: ours to pay, not reported as conventional
IN_BLOCKS = 3  # codings measured as they are stored, where that is in several blocks
MOST_MEASURED = 4  # codings on every row of what is stored
ALIKE_FAR = 0.93  # of what a sample takes a row, on every row at the level of a first look: then all rows are measured
STEADY = 0.98  # of pcodec's bytes: a rival below this is measured
RUNS = 4  # shorter ones hide from zstd what is alike in neighbouring rows


def prepare(model: Model, j: int, chunked: pa.ChunkedArray, target: float | None) -> ColumnState:
    """A column's codes and the ways to hold it, nothing measured yet: see `settle`."""
    array = one_array(chunked)
    own = model.columns[j]
    codes = None if own.kind == "verbatim" else encode_column(own, array)
    target = own.tolerance.value if own.tolerance.is_distortion else target
    steps = Way(own, codes) if j not in model.uniform else Way(model.uniform[j], encode_column(model.uniform[j], array), UNIFORM)
    ways, holds = [steps], True
    if codes is not None and target is not None and not _meets(steps, array, target):
        # the sample met the target, these rows miss it: what is smallest of the worst values kept, the layer's fine grid, all kept
        assert steps.codes is not None
        closer = replace(steps, codes=with_worst_kept(steps.plan, array, steps.codes, target))
        ways = [way for way in (closer, *([Way(own, codes)] if steps.prefix else [])) if _meets(way, array, target)]
        holds = bool(ways) and not ways[-1].prefix
        codes = ways[-1].codes if holds else codes
        ways.append(Way(replace(own, tolerance=LOSSLESS), codes, raw=True))
    return ColumnState(array, codes, tuple(ways), holds=holds)


def settle(model: Model, j: int, column: ColumnState, learned: float = math.inf, spans: Sequence[tuple[int, int]] = ()) -> None:
    """Find the column's conventional coding and its bytes.

    learned : bytes of its stream; far below, the coding is left open
    spans   : (first row, rows) of the blocks it would be stored in; what is reported is measured in one piece
    """
    # the dictionary behind codes is in the model, whatever this shard does: it weighs in what is reported, not in the choice
    dictionary = model.dictionary_bytes(j) * min(1.0, len(column.array) / max(1, model.n_rows))
    first, known = column.ways[0], dict[str, int]()
    of_texts = isinstance(first.plan.transform, DigitText)
    if learned < math.inf and len(column.ways) == 1 and first.codes is not None and first.plan.width == 1 and not of_texts:
        reported = _about(first, column.array, dictionary, learned, known)
        if reported is not None:
            column.conventional_bytes = column.reported_bytes = round(reported)
            return
    measured = [(n_bytes, way, coding) for way in column.ways for coding, n_bytes in _sizes(way, column.array, known, dictionary)]
    theirs = [(name, n) for n, _, name in measured]
    sizes = [(n_bytes + NATIVE_BYTES * is_native(coding), way, coding) for n_bytes, way, coding in measured]
    n_bytes, way, coding = min(sizes, key=lambda size: size[0])
    if of_texts:  # numbers made of texts are ours, not what a conventional coding has
        raw = [name for name in conventional.candidates_for(first.plan) if not uses_codes(name)]
        theirs = list(conventional.sizes(first.plan, column.array, None, raw or ["ipc"]).items())
    column.reported_bytes = round(min(_whole(name, n, dictionary) for name, n in theirs))
    if len(spans) > 1:
        near = [(way, name) for n, way, name in sorted(sizes, key=lambda size: size[0]) if n <= NEAR_BEST * n_bytes + SLACK][:IN_BLOCKS]
        frame = NATIVE_BYTES * len(spans)
        stored = [(_in_blocks(way, name, column.array, spans) + frame * is_native(name), way, name) for way, name in near]
        n_bytes, way, coding = min(stored, key=lambda size: size[0])
    for tried in column.ways:
        if not tried.raw and lattices.worth_trying(tried.plan, tried.codes):
            # ours: never reported as conventional
            found = conventional.measure(tried.plan, column.array, tried.codes, ["lattices"])[1]
            n_bytes, way, coding = min((n_bytes, way, coding), (found, tried, "lattices"), key=lambda size: size[0])
    column.stored, column.coding, column.conventional_bytes = way.codes, way.prefix + coding, n_bytes


def _in_blocks(way: Way, coding: str, array: pa.Array, spans: Sequence[tuple[int, int]]) -> int:
    """Bytes of a coding of a column stored block by block: what zstd finds alike in rows far apart is lost to it there."""
    width = way.plan.width
    return sum(
        conventional.measure(
            way.plan, array.slice(start, n), None if way.codes is None else slice_codes(way.codes, start, n, width), [coding]
        )[1]
        for start, n in spans
    )


def _about(way: Way, array: pa.Array, dictionary: float, learned: float, known: dict[str, int]) -> float | None:
    """About the bytes of the best conventional coding, its dictionary included; None where the stream is not far below it.

    known : takes what is measured on every row
    """
    assert way.codes is not None
    plan, n = way.plan, len(array)
    pco = [name for name in conventional.candidates_for(plan) if name.startswith("pco")]
    sample = _sampled(way, array, RANK_ROWS)
    share = dictionary * len(sample[0]) / max(1, n)
    fast = conventional.sizes(plan, *sample, conventional.candidates_for(plan), FAST)
    base = min((_whole(name, fast[name], share) for name in pco), default=0.0)
    if learned >= FAR_BELOW * min(fast.values()) * n / max(1, len(sample[0])) or not pco:
        return None
    known |= conventional.sizes(plan, array, way.codes, pco)
    best = min(_whole(name, known[name], dictionary) for name in pco)
    if learned >= FAR_BELOW * best or lattices.worth_trying(plan, way.codes):
        return None
    likely = [name for name, n_bytes in fast.items() if name not in pco and FAST_SHRINKS_REPORTED * n_bytes <= base + SLACK]
    dense_names = _apart({name: fast[name] for name in likely if name.endswith("-dictionary")}, dictionary)
    dense = conventional.sizes(plan, array, way.codes, dense_names, FAST)
    likely_dense = {name: n for name, n in dense.items() if DICTIONARY_SHRINKS * _whole(name, n, dictionary) <= best + SLACK}
    exact = conventional.sizes(plan, array, way.codes, _apart(likely_dense, dictionary))
    ranked = conventional.sizes(plan, *sample, [name for name in likely if not name.endswith("-dictionary")])
    rivals = _apart({name: n for name, n in ranked.items() if _whole(name, n, share) <= NEAR_BEST * base + SLACK}, dictionary)
    # what is alike in stretches far apart no sample shows, but a first look at every row does
    plain = [name for name in fast if name not in pco and not name.endswith("-dictionary")] if n > 4 * len(sample[0]) else []
    whole = conventional.sizes(plan, array, way.codes, plain, FAST)
    alike = {
        name: n_bytes for name, n_bytes in whole.items()
        if n_bytes < ALIKE_FAR * fast[name] * n / len(sample[0]) and FAST_SHRINKS_ALL * n_bytes <= best + SLACK
    }  # fmt: skip
    exact |= conventional.sizes(plan, array, way.codes, _apart(alike, 0))
    if n > LONG and best > 64 * SLACK:
        part = _sampled(way, array, n // 4)
        share = dictionary * len(part[0]) / n
        told = {name: _whole(name, n_bytes, share) for name, n_bytes in conventional.sizes(plan, *part, [*rivals, *pco]).items()}
        beside = best / min(told[name] for name in pco)
        sampled = [told[name] * beside for name in rivals if name not in exact and told[name] * beside >= STEADY * best]
        rivals = [name for name in rivals if name not in exact and told[name] * beside < STEADY * best]
        best = min(best, *(SAMPLED_LESS * n_bytes for n_bytes in sampled), math.inf)
    exact |= conventional.sizes(plan, array, way.codes, [name for name in rivals if name not in exact])
    best = min(best, *(_whole(name, n_bytes, dictionary) for name, n_bytes in exact.items()), math.inf)
    known |= exact
    return best if learned < FAR_BELOW * best else None


def _apart(sizes: Mapping[str, int], dictionary: float) -> list[str]:
    """The best two of the codings."""
    best = sorted(sizes, key=lambda name: _whole(name, sizes[name], dictionary))
    return (best if dictionary else _untwinned(best, sizes))[:2]


def _untwinned(names: Sequence[str], sizes: Mapping[str, float]) -> list[str]:
    """Codings, best first, without those that do to raw values what a better one does to their codes, or the reverse, for about as much."""
    kept: dict[str, str] = {}
    for name in names:
        family, _, encoding = name.partition("-")
        twin = kept.get(encoding) if family != "pco" else None
        if twin is None or sizes[name] > 1.03 * sizes[twin]:
            kept[name if family == "pco" else encoding if twin is None else name] = name
    return list(kept.values())


def _whole(coding: str, n_bytes: int, dictionary: float) -> float:
    return n_bytes + (dictionary if uses_codes(coding) else 0)


def _sizes(way: Way, array: pa.Array, known: Mapping[str, int], dictionary: float) -> list[tuple[str, int]]:
    """(coding, bytes) over the whole array, best first: the best of codes and the best of raw values at least."""
    sample = _sampled(way, array, RANK_ROWS)
    ranked = _ranked(way, *sample)
    if not ranked:
        return [conventional.measure(way.plan, array, way.codes, ["ipc"])]
    if len(array) > len(sample[0]):
        # near the best of rows from all over, or of the first, whose long stretch may tell zstd more
        firsts = _ranked(
            way, array.slice(0, len(sample[0])), None if way.codes is None else slice_codes(way.codes, 0, len(sample[0]), way.plan.width)
        )
        nearness: dict[str, float] = {}
        for found in (ranked, firsts):
            for name, n in found:
                if n <= NEAR_BEST * found[0][1] + 256:
                    nearness[name] = min(nearness.get(name, math.inf), n / max(1, found[0][1]))
        close = sorted(nearness, key=lambda name: nearness[name])
        close = (close if dictionary else _untwinned(close, nearness))[:MOST_MEASURED]
        exact = {name: known[name] for name in close if name in known}
        exact |= conventional.sizes(way.plan, array, way.codes, [name for name in close if name not in known])
        ranked = sorted(exact.items(), key=lambda pair: pair[1]) or [conventional.measure(way.plan, array, way.codes, ["ipc"])]
    return ranked


def _ranked(way: Way, array: pa.Array, codes: Codes | None) -> list[tuple[str, int]]:
    """(coding, bytes) of a sample, best first, of the codings that a first look does not rule out."""
    if way.plan.width > 1:
        return _allowed(way, conventional.rank(way.plan, array, codes))
    names = [name for name in conventional.candidates_for(way.plan) if not way.raw or not uses_codes(name)]
    fast = conventional.sizes(way.plan, array, codes, names, FAST)
    best = min(fast.values(), default=0)
    shrinks = FAST_SHRINKS if codes is None else FAST_SHRINKS_CODED
    likely = [name for name, n_bytes in fast.items() if shrinks * n_bytes <= best + SLACK]
    known = {name: fast[name] for name in likely if name.startswith("pco")}
    found = known | conventional.sizes(way.plan, array, codes, [name for name in likely if name not in known])
    found = found or conventional.sizes(way.plan, array, codes, ["ipc"])
    return _allowed(way, sorted(found.items(), key=lambda pair: pair[1]))


def _allowed(way: Way, ranked: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(name, n) for name, n in ranked if not way.raw or not uses_codes(name)]


def _sampled(way: Way, array: pa.Array, n_rows: int) -> tuple[pa.Array, Codes | None]:
    """Runs of rows spread evenly over a column of codes; the first rows of any other, whose type may not be joined, and of tensors."""
    width = way.plan.width
    n_rows = max(256, n_rows // max(1, width // 8))
    if way.codes is None or width > 1 or len(array) <= n_rows:
        return array.slice(0, n_rows), None if way.codes is None else slice_codes(way.codes, 0, n_rows, width)
    run = n_rows // RUNS
    starts = [k * (len(array) - run) // (RUNS - 1) for k in range(RUNS)]
    rows = one_array(pa.chunked_array([array.slice(start, run) for start in starts], array.type))
    return rows, _joined([slice_codes(way.codes, start, run, width) for start in starts])


def _joined(parts: list[Codes]) -> Codes:
    """Codes of one column end to end."""
    states: NDArray[np.uint8] | None = None
    if any(part.state is not None for part in parts):
        states = np.concatenate([np.zeros(len(p.values), np.uint8) if p.state is None else p.state for p in parts])
    misfits = [part.misfits for part in parts if part.misfits is not None]
    values = np.concatenate([part.values for part in parts])
    return Codes(values, states, one_array(pa.chunked_array(misfits)) if misfits else None)


def _meets(way: Way, array: pa.Array, target: float) -> bool:
    """Whether the codes of an array decode within a root mean square error."""
    assert way.codes is not None
    return rmse_of(array, decode_column(way.plan, way.codes)) <= target
