"""How a column is stored where it is not learned, and what the report holds the learned coding against.

Exact wherever it decides what is stored, but for what is looked at again when all is measured (`peers.Measure`). A column whose stream
takes less than any conventional coding is not stored another way: there the figure is for the report alone, and about right will do
(`peers`). A part of the rows shows it, and what is to be reported can be measured, or told, when the shard is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from vae_core import packed_nested, packed_texts, peers
from vae_core.coders import conventional, lattices, nested
from vae_core.coders.conventional import Stored, Weighed
from vae_core.coders.nested import elements
from vae_core.columns import Codes, ColumnPlan, decode_column, encode_column, one_array
from vae_core.columns.dictionaries import ValueDictionary
from vae_core.columns.plan import storage_type
from vae_core.columns.profile import storage_of
from vae_core.columns.recode import with_worst_kept
from vae_core.columns.texts import TextPattern
from vae_core.latents import ColumnState, Way, slice_codes
from vae_core.layout import UNIFORM, is_native, uses_codes
from vae_core.model import Model
from vae_core.packing import zstd
from vae_core.peers import Measure
from vae_core.tables import rmse_of
from vae_core.tolerance import LOSSLESS

NEAR_BEST = 1.15  # codings of a column within this of the best are measured as they are stored, where that is in several blocks
SLACK = 512  # bytes: small columns have ratios of their own
NATIVE_BYTES = 40  # of a Parquet footer for each native column: ours to pay, not reported as conventional
IN_BLOCKS = 3  # codings measured as they are stored
PART_ROWS, PART_CELLS, LEAST_ROWS = 16_384, 1 << 18, 16  # of tensors: those they are ranked on
MOST_MEASURED = 4  # codings on every row
FAR_BELOW = 0.9  # of what a part says of tensors: a stream below this is learned, whatever all rows would say
ELEMENT_ROWS = (8_192, 65_536)  # of vectors, that are looked at element by element
BY_ELEMENTS, HOPELESS = 0.99, 3.0  # of the best so far: what that has to come to, and what no more rows will bring down to it

Ranked = tuple[list[tuple[str, int]], Way]
"""(coding, bytes) of a part of the rows of tensors, best first; and that part."""


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


def settle(
    model: Model,
    j: int,
    column: ColumnState,
    learned: float = math.inf,
    spans: Sequence[tuple[int, int]] = (),
    measure: Measure = Measure.NOW,
    known: int | None = None,
) -> None:
    """Find the column's conventional coding and its bytes, and ours for texts and nested values that nobody filters on (`packed_texts`,
    `packed_nested`).

    learned : bytes of its stream; where it takes less than any coding, that is left open
    spans   : (first row, rows) of the blocks it would be stored in; what is reported is measured in one piece
    measure : where the stream takes less, so far as that has to be known, leave it to the column's `rival` to tell what is reported
    known   : what is reported, where it has been measured: not measured again where the stream takes less
    """
    _conventional(model, j, column, learned, spans, measure, known)
    plan, array = model.columns[j], storage_of(column.array)
    if not column.coding and isinstance(plan.transform, ValueDictionary) and _all_recur(column, plan):
        return  # texts by a stream of which is which: written out they take more, where that is much
    encoding = conventional.parquet_encoding(column.coding) if column.coding.startswith("parquet-") else None
    blocks, most = spans or [(0, len(array))], min(learned, column.conventional_bytes)
    found = None
    if plan.width == 1 and plan.is_lossless:
        pack = packed_nested.packed if nested.holds(array.type) else partial(packed_texts.packed, mixing=model.mixing)
        found = pack(array, blocks, most, encoding)
    if found is not None:
        # ours: never reported as conventional
        column.coding, payloads = found
        column.stored, column.conventional_bytes = None, sum(len(payload) for payload in payloads)
        column.packed = {span: Stored(None, payload) for span, payload in zip(blocks, payloads, strict=True)}


def _all_recur(column: ColumnState, plan: ColumnPlan) -> bool:
    """Whether the values are of a dictionary that is much shorter than they are."""
    return column.codes is not None and column.codes.misfits is None and peers.recur(plan, len(column.array))


def _conventional(
    model: Model,
    j: int,
    column: ColumnState,
    learned: float,
    spans: Sequence[tuple[int, int]],
    measure: Measure,
    known: int | None,
) -> None:
    """Find the column's conventional coding and its bytes, or as `lattices`."""
    column.rival = None
    # the dictionary behind codes is in the model, whatever this shard does: it weighs in what is reported, not in the choice
    dictionary = model.dictionary_bytes(j) * min(1.0, len(column.array) / max(1, model.n_rows))
    first = column.ways[0]
    of_texts = isinstance(first.plan.transform, TextPattern)
    races = {id(way): peers.Race(way, column.array, dictionary) for way in column.ways if way.plan.width == 1}
    weighed = {id(way): races[id(way)].weighed if id(way) in races else Weighed(way.plan, column.array, way.codes) for way in column.ways}
    steps = any(not way.raw and lattices.worth_trying(way.plan, way.codes) for way in column.ways)
    is_simple = learned < math.inf and len(column.ways) == 1 and first.codes is not None and bool(races) and not steps
    if is_simple and of_texts and (about := races[id(first)].left_open(learned, measure)) is not None:
        column.conventional_bytes = column.reported_bytes = round(about)
        column.rival = partial(peers.reported_of_texts, races[id(first)], learned)
        return
    if is_simple and not of_texts:
        if known is not None and learned < known - dictionary:
            column.conventional_bytes = column.reported_bytes = known
            return
        race = races[id(first)]
        reported = race.left_open(learned, measure)
        if reported is not None:
            column.rival = partial(race.reported, learned)
        else:
            reported = race.about(learned)
        if reported is not None:
            column.conventional_bytes = column.reported_bytes = round(reported)
            return
    ranked: Ranked | None = None  # of the only way, where it is known
    if learned < math.inf and len(column.ways) == 1 and first.codes is not None and first.plan.width > 1 and measure is not Measure.NOW:
        if known is not None and learned < known - dictionary:
            column.conventional_bytes = column.reported_bytes = known
            return
        ranked = _ranked_by_part(first, column.array)
        told = peers.whole("zstd", _tensors_by_part(first, column.array, ranked), dictionary)
        if learned < FAR_BELOW * told:
            column.conventional_bytes = column.reported_bytes = round(told)
            column.rival = partial(_rival_of_tensors, first, weighed[id(first)], ranked, dictionary, told, learned)
            return
    measured = [
        (n_bytes, way, coding)
        for way in column.ways
        for coding, n_bytes in (races[id(way)].exact() if id(way) in races else _of_tensors(way, weighed[id(way)], ranked)).items()
    ]
    sizes = sorted(((n_bytes + NATIVE_BYTES * is_native(coding), way, coding) for n_bytes, way, coding in measured), key=_first)
    n_bytes, way, coding = sizes[0]
    if coding in weighed[id(way)].payloads:
        column.packed = {(0, len(column.array)): Stored(None, weighed[id(way)].payloads[coding])}
    if of_texts:  # numbers made of texts are ours, not what a conventional coding has
        column.reported_bytes = peers.of_texts(first.plan, column.array)
    else:
        column.reported_bytes = round(min(peers.whole(name, n, dictionary) for n, _, name in measured))
    if len(spans) > 1 and not steps and learned < n_bytes:
        column.conventional_bytes = n_bytes  # it is learned: blocks would only add to that
        return
    if len(spans) > 1:
        near = [(way, name) for n, way, name in sizes if n <= NEAR_BEST * n_bytes + SLACK][:IN_BLOCKS]
        n_bytes, way, coding, column.packed = _best_in_blocks(near, {(id(way), name): n for n, way, name in sizes}, column.array, spans)
    for tried in column.ways:
        if steps and not tried.raw and lattices.worth_trying(tried.plan, tried.codes):
            # ours: never reported as conventional
            packed = conventional.encode(tried.plan, "lattices", column.array, tried.codes)
            if len(packed.payload or b"") < n_bytes:
                n_bytes, way, coding = len(packed.payload or b""), tried, "lattices"
                column.packed = {(0, len(column.array)): packed}
    column.stored, column.coding, column.conventional_bytes = way.codes, way.prefix + coding, n_bytes


def _first(size: tuple[int, Way, str]) -> int:
    return size[0]


def _best_in_blocks(
    near: Sequence[tuple[Way, str]], in_one: Mapping[tuple[int, str], int], array: pa.Array, spans: Sequence[tuple[int, int]]
) -> tuple[int, Way, str, dict[tuple[int, int], Stored]]:
    """The coding that takes the fewest bytes block by block: what zstd finds alike in rows far apart is lost to it there. And the blocks
    of one that is no native column.

    near   : ways and codings, best in one piece first
    in_one : what they take in one piece: hardly less than in blocks
    """
    blocks: dict[int, list[Weighed]] = {}
    best: tuple[int, Way, str, dict[tuple[int, int], Stored]] | None = None
    for way, name in near:
        if best is not None and in_one[id(way), name] > best[0]:
            continue
        made: dict[tuple[int, int], Stored] = {}
        if is_native(name) and id(way) not in blocks:
            blocks[id(way)] = [Weighed(way.plan, array.slice(start, n), _slice(way, start, n)) for start, n in spans]
        if is_native(name):
            parts = [block.sizes([name]) or block.sizes(["ipc"]) for block in blocks[id(way)]]
            n_bytes = sum(min(part.values()) + NATIVE_BYTES for part in parts)
        else:
            made = {(start, n): conventional.encode(way.plan, name, array.slice(start, n), _slice(way, start, n)) for start, n in spans}
            n_bytes = sum(len(stored.payload or b"") for stored in made.values())
        if best is None or n_bytes < best[0]:
            best = (n_bytes, way, name, made)
    assert best is not None
    return best


def _slice(way: Way, start: int, n_rows: int) -> Codes | None:
    return None if way.codes is None else slice_codes(way.codes, start, n_rows, way.plan.width)


def _of_tensors(way: Way, weighed: Weighed, ranked: Ranked | None = None) -> dict[str, int]:
    """Coding -> bytes over the whole array, of those that are near the best of a part of the rows: the best of codes and the best of raw
    values at least. ranked : as `_ranked_by_part` has them, where that is known"""
    best_first, _ = ranked or _ranked_by_part(way, weighed.array)
    found = weighed.sizes([name for name, n in best_first if n <= NEAR_BEST * best_first[0][1] + 256][:MOST_MEASURED])
    if _may_be_by_elements(way, weighed.array, min(found.values(), default=math.inf)):
        found |= weighed.sizes(["elements"])
    return found or weighed.sizes(["ipc"])


def _ranked_by_part(way: Way, array: pa.Array) -> Ranked:
    """The codings of tensors by a part of the rows."""
    width = way.plan.width
    n_rows = max(LEAST_ROWS, min(max(256, PART_ROWS // max(1, width // 8)), PART_CELLS // width))
    rows, codes = peers.sampled(way, array, n_rows, peers.PART_RUNS)
    ranked = [(name, n) for name, n in conventional.rank(way.plan, rows, codes) if not way.raw or not uses_codes(name)]
    return ranked, replace(way, codes=codes)


def _tensors_by_part(way: Way, array: pa.Array, by_part: Ranked) -> float:
    """About the bytes of the best conventional coding of tensors, by a part of the rows: less where what zstd finds alike is far apart."""
    ranked, part = by_part
    assert way.codes is not None and part.codes is not None
    share = len(way.codes.values) / max(1, len(part.codes.values))
    seen, some = (len(zstd(conventional.narrowed(codes.values)[0].tobytes(), peers.FAST)) for codes in (way.codes, part.codes))
    recurring = min(1.0, seen / max(1.0, share * some))
    told = min((share * n * (1.0 if name.startswith("pco") else recurring) for name, n in ranked), default=0.0)
    return min(told, _by_elements(way, array, ELEMENT_ROWS[0])) if _has_elements(way, array) else told


def _rival_of_tensors(
    way: Way, weighed: Weighed, ranked: Ranked, dictionary: float, told: float, learned: float, by_part: bool = False
) -> int:
    """What is reported of tensors that are learned: measured, or by_part about that, rather too few."""
    if by_part:
        return max(round(peers.TOLD_LESS * told), math.ceil(learned))
    return round(min(peers.whole(name, n, dictionary) for name, n in _of_tensors(way, weighed, ranked).items()))


def _may_be_by_elements(way: Way, array: pa.Array, most: float) -> bool:
    """Whether vectors may take clearly less than so many bytes element by element, by some elements of a part of the rows."""
    if not _has_elements(way, array):
        return False
    for n_rows in ELEMENT_ROWS:  # few rows say too much: each element has lists and bins of its own
        told = _by_elements(way, array, n_rows)
        if told < BY_ELEMENTS * most or told > HOPELESS * most or len(array) <= n_rows:
            break
    return told < BY_ELEMENTS * most


def _has_elements(way: Way, array: pa.Array) -> bool:
    kind = array.type
    is_picture = isinstance(kind, pa.FixedShapeTensorType) and len(kind.shape) > 1
    few = 0 < len(array) * way.plan.width <= elements.MOST_CELLS
    return few and way.plan.is_lossless and not is_picture and elements.holds(storage_type(kind))


def _by_elements(way: Way, array: pa.Array, n_rows: int) -> float:
    """About the bytes of vectors element by element, by some elements of so many rows."""
    rows, _ = peers.sampled(way, array, n_rows, peers.PART_RUNS)
    return elements.bytes_of_some(storage_of(rows)) * len(array) / len(rows)


def _meets(way: Way, array: pa.Array, target: float) -> bool:
    """Whether the codes of an array decode within a root mean square error."""
    assert way.codes is not None
    return rmse_of(array, decode_column(way.plan, way.codes)) <= target
