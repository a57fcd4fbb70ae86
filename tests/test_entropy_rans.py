from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vae_core.entropy import kernel, rans
from vae_core.entropy.rans import FOLD, MAX_LANES, SLOTS, Channel, Decoder, Encoder, _last_within, lanes_for
from vae_core.errors import CorruptArchive

LAW = settings(deadline=None, max_examples=40)
HAS_COMPILER = any(kernel.compilers())
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One call of a channel: raw bits where cumulative is None, then `table` holds n_bits."""

    cumulative: Ints | None
    table: Ints
    symbols: Ints

    def walk(self, channel: Channel) -> Ints:
        known = self.symbols if channel.writes else None
        if self.cumulative is None:
            return channel.raw(self.table, known)
        return channel.code(self.cumulative, self.table, known)

    def bits(self) -> float:
        """The information content of the symbols."""
        if self.cumulative is None:
            return float(self.table.sum())
        width = self.cumulative[self.table, self.symbols + 1] - self.cumulative[self.table, self.symbols]
        return float(np.log2(self.cumulative[self.table, -1]).sum() - np.log2(width).sum())


def frequencies(rng: np.random.Generator, n_tables: int, n_symbols: int, whole: bool) -> Ints:
    """(n_tables, n_symbols + 1) cumulative counts, lopsided; `whole`: their total is 2^24 exactly."""
    share = rng.random((n_tables, n_symbols)) ** 8
    most = SLOTS if whole else int(rng.integers(n_symbols, SLOTS))
    room = most - n_symbols
    counts = 1 + np.floor(share / share.sum(1, keepdims=True) * room * 0.999).astype(np.int64)
    if whole:
        counts[:, int(rng.integers(n_symbols))] += SLOTS - counts.sum(1)
    return np.concatenate([np.zeros((n_tables, 1), np.int64), counts.cumsum(1)], axis=1)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 63, 300]))
    if draw(st.integers(0, 3)) == 0:
        n_bits = rng.integers(0, 17, n)
        return Step(None, n_bits, rng.integers(0, 1 << n_bits, n))
    n_symbols = draw(st.sampled_from([1, 2, 3, 7, 8, 9, 255, 256, 257]))
    cumulative = frequencies(rng, draw(st.integers(1, 5)), n_symbols, draw(st.booleans()))
    table = rng.integers(0, len(cumulative), n)
    likely = (rng.random(n) * cumulative[table, -1]).astype(np.int64)
    symbols = (cumulative[table] <= likely[:, None]).sum(1) - 1
    return Step(cumulative, table, np.where(rng.random(n) < 0.5, symbols, rng.integers(0, n_symbols, n)))


def written(walk: list[Step]) -> bytes:
    encoder = Encoder()
    for step in walk:
        assert (step.walk(encoder) == step.symbols).all()
    return encoder.finish()


def read(stream: bytes, walk: list[Step]) -> list[Ints]:
    decoder = Decoder(stream)
    found = [step.walk(decoder) for step in walk]
    decoder.finish()
    return found


@contextmanager
def numpy_alone() -> Iterator[None]:
    """The specification without the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "library", lambda: None)
        yield


@LAW
@given(st.lists(steps(), max_size=6))
def test_what_was_written_is_read(walk):
    for found, step in zip(read(written(walk), walk), walk, strict=True):
        assert found.dtype == np.int64 and np.array_equal(found, step.symbols)


@LAW
@given(st.lists(steps(), max_size=6))
def test_numpy_and_the_kernel_give_the_same_stream_and_read_each_other(walk):
    stream = written(walk)
    with numpy_alone():
        assert written(walk) == stream
        slow = read(stream, walk)
    assert all(np.array_equal(a, b) for a, b in zip(slow, read(stream, walk), strict=True))


@pytest.mark.parametrize("n", [20_000, 200_000])
def test_long_streams_use_many_lanes_and_read_back_the_same_both_ways(n):
    rng = np.random.default_rng(n)
    cumulative = frequencies(rng, 40, 300, whole=False)
    walk = [
        Step(cumulative, rng.integers(0, 40, n), rng.integers(0, 300, n)),
        Step(None, np.full(n, 16), rng.integers(0, 1 << 16, n)),
        Step(cumulative[:1, :2], np.zeros(n, np.int64), np.zeros(n, np.int64)),
    ]
    stream = written(walk)
    assert Decoder(stream).lanes > 4
    with numpy_alone():
        assert written(walk) == stream
        found = read(stream, walk)
    assert all(np.array_equal(a, step.symbols) for a, step in zip(found, walk, strict=True))
    assert all(np.array_equal(a, step.symbols) for a, step in zip(read(stream, walk), walk, strict=True))


@LAW
@given(st.lists(steps(), max_size=6))
def test_a_stream_is_as_long_as_its_information_and_its_lanes(walk):
    encoder = Encoder()
    for step in walk:
        step.walk(encoder)
    information = sum(step.bits() for step in walk)
    stream = encoder.finish()
    lanes = Decoder(stream).lanes
    n = sum(len(step.symbols) for step in walk)
    assert 8 * len(stream) <= encoder.bits + 48 + 64 * lanes + 0.001 * n + 1
    # 2^24 slots hold a count of one only to the nearest slot
    assert encoder.bits == pytest.approx(information, abs=1e-6 + 1.0 * n)
    fair = [step for step in walk if step.cumulative is None or (step.cumulative[:, -1] == SLOTS).all()]
    if len(fair) == len(walk):
        assert encoder.bits == pytest.approx(information, abs=1e-6 * (1 + n))


def test_lanes_cost_near_half_a_percent_of_any_stream_that_is_not_small():
    for n_bytes in (8_000, 50_000, 10**6, 10**9):
        lanes = lanes_for(n_bytes)
        assert 4 <= lanes <= MAX_LANES and 0.75 * lanes + 4 * max(1, lanes // FOLD) <= 0.004 * n_bytes
    assert lanes_for(0) == 4


def unfolded(walk: list[Step], lanes: int) -> bytes:
    """A stream as format 1.0 has it, by the formulas: one lane count throughout, states whole."""
    state, words = [1 << 32] * lanes, []
    for step in reversed(walk):
        for i in reversed(range(len(step.symbols))):
            s, t = int(step.symbols[i]), int(step.table[i])
            if step.cumulative is None:
                low, high = s << 24 - t, s + 1 << 24 - t
            else:
                low, high = ((int(step.cumulative[t, s + end]) << 24) // int(step.cumulative[t, -1]) for end in (0, 1))
            x = state[i % lanes]
            if x >> 40 >= high - low:
                words.append(x & 0xFFFFFFFF)
                x >>= 32
            state[i % lanes] = (x // (high - low) << 24) + x % (high - low) + low
    return struct.pack(f"<HI{lanes}Q{len(words)}I", lanes, len(words), *state, *reversed(words))


@LAW
@given(st.lists(steps(), max_size=6), st.sampled_from([1, 3, 4, 64]))
def test_a_stream_of_format_one_nought_is_read(walk, lanes):
    for found, step in zip(read(unfolded(walk, lanes), walk), walk, strict=True):
        assert np.array_equal(found, step.symbols)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(6, 13, "folds"), (6, 9, "folds"), (7, 1, "folds|ends|end"), (0, 0, "folds|claims"), (6, 0, "ends|claims|states|end")],
)
def test_a_stream_with_a_wrong_fold_is_refused(position, value, message):
    rng = np.random.default_rng(9)
    cumulative = frequencies(rng, 3, 60, whole=False)
    walk = [Step(cumulative, rng.integers(0, 3, 9000), rng.integers(0, 60, 9000)) for _ in range(4)]
    stream = bytearray(written(walk))
    assert stream[6] >= 3 and Decoder(bytes(stream)).lanes >= 64
    stream[position] = value
    with pytest.raises(CorruptArchive, match=message):
        read(bytes(stream), walk)


@LAW
@given(st.lists(steps(), max_size=4), st.lists(steps(), max_size=4))
def test_an_encoder_that_absorbs_another_writes_what_one_would_have_written(first, second):
    whole, a, b = Encoder(), Encoder(), Encoder()
    for step in first:
        step.walk(a)
        step.walk(whole)
    for step in second:
        step.walk(b)
        step.walk(whole)
    joined = Encoder()
    joined.absorb(a)
    joined.absorb(b)
    assert joined.finish() == whole.finish() and a.finish() == written(first)


@LAW
@given(st.lists(steps(), max_size=4), st.data())
def test_a_truncated_stream_is_refused(walk, data):
    stream = written(walk)
    cut = data.draw(st.integers(0, len(stream) - 1))
    with pytest.raises(CorruptArchive):
        read(stream[:cut], walk)
    with pytest.raises(CorruptArchive):
        read(stream + b"\0", walk)


def outcome(stream: bytes, walk: list[Step]) -> list[Ints] | str:
    try:
        return read(stream, walk)
    except CorruptArchive as error:
        return str(error)


@LAW
@given(st.lists(steps(), min_size=1, max_size=4), st.data())
def test_a_garbled_stream_is_refused_or_is_the_stream_of_what_is_read_from_it(walk, data):
    stream = bytearray(written(walk))
    for _ in range(data.draw(st.integers(1, 3))):
        # but for the folds: one may stand on either side of a step that is certain
        place = data.draw(st.integers(0, len(stream) - 1).filter(lambda at: not 7 <= at < 7 + 4 * stream[6]))
        stream[place] ^= data.draw(st.integers(1, 255))
    garbled = bytes(stream)
    found = outcome(garbled, walk)
    with numpy_alone():
        same = outcome(garbled, walk)
    if isinstance(found, str) or isinstance(same, str):
        assert found == same
        return
    assert all(np.array_equal(a, b) for a, b in zip(found, same, strict=True))
    assert written([replace(step, symbols=symbols) for step, symbols in zip(walk, found, strict=True)]) == garbled


def test_a_flipped_bit_in_a_stream_of_modelled_symbols_is_found_at_its_end():
    rng = np.random.default_rng(5)
    cumulative = frequencies(rng, 3, 20, whole=False)
    walk = [Step(cumulative, rng.integers(0, 3, 2000), rng.integers(0, 20, 2000))]
    stream = written(walk)
    for position in rng.choice(len(stream), 60, replace=False):
        garbled = bytearray(stream)
        garbled[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptArchive):
            read(bytes(garbled), walk)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.binary(max_size=4000), st.lists(steps(), min_size=1, max_size=4))
def test_noise_in_the_shape_of_a_stream_gives_symbols_of_the_alphabet_or_an_error(lanes, noise, walk):
    body = noise.ljust(8 * lanes, b"\0")
    body = body[: len(body) - (len(body) - 8 * lanes) % 4]
    head = lanes.to_bytes(2, "little") + ((len(body) - 8 * lanes) // 4).to_bytes(4, "little")

    def symbols() -> list[Ints] | str:
        decoder = Decoder(head + body)
        try:
            return [step.walk(decoder) for step in walk]
        except CorruptArchive as error:
            return str(error)

    found = symbols()
    with numpy_alone():
        same = symbols()
    assert isinstance(found, str) == isinstance(same, str)
    if isinstance(found, str) or isinstance(same, str):
        assert found == same
        return
    for a, b, step in zip(found, same, walk, strict=True):
        top = 1 << step.table if step.cumulative is None else step.cumulative.shape[1] - 1
        assert np.array_equal(a, b) and ((a >= 0) & (a < top)).all()


@pytest.mark.parametrize("lanes", [0, MAX_LANES + 1, 65535])
def test_a_lane_count_out_of_range_is_refused(lanes):
    with pytest.raises(CorruptArchive, match="lanes"):
        Decoder(lanes.to_bytes(2, "little") + bytes(4) + bytes(8 * lanes))


def test_a_stream_with_symbols_left_over_is_refused():
    step = Step(np.array([[0, 1, 2]]), np.zeros(100, np.int64), np.arange(100) % 2)
    decoder = Decoder(written([step]))
    Step(step.cumulative, step.table[:50], step.symbols[:50]).walk(decoder)
    with pytest.raises(CorruptArchive, match="does not end"):
        decoder.finish()


ASK = "from vae_core.entropy import kernel; print(kernel.available())"


def kernel_of(folder: Path, **environment: str) -> str:
    """Whether a fresh process with its own cache folder has the kernel."""
    inherited = {k: v for k, v in os.environ.items() if k != "LATENTPACK_KERNEL"}
    env = {**inherited, "LATENTPACK_CACHE": str(folder), **environment}
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_where_there_is_a_compiler_the_kernel_is_built_and_used_and_can_be_turned_off(tmp_path):
    assert kernel_of(tmp_path) == str(HAS_COMPILER)
    assert bool(list(tmp_path.glob("*.so"))) == HAS_COMPILER
    assert kernel_of(tmp_path, LATENTPACK_KERNEL="off") == "False"


def test_a_damaged_kernel_in_the_cache_is_not_fatal(tmp_path):
    kernel_of(tmp_path)
    for found in tmp_path.glob("*.so"):
        found.write_bytes(b"not a library")
    assert kernel_of(tmp_path) in ("True", "False")


def changed_kernel(tmp_path: Path, monkeypatch, *changes: tuple[str, str]) -> Any | None:
    """The kernel made of a source with such changes, None where it is not used."""
    source = kernel.SOURCE.read_text()
    for right, wrong in changes:
        assert right in source
        source = source.replace(right, wrong)
    changed = tmp_path / "kernel.c"
    changed.write_text(source)
    monkeypatch.setattr(kernel, "SOURCE", changed)
    first = list(kernel.compilers())[:1]  # what is wrong with a source is wrong by every compiler
    monkeypatch.setattr(kernel, "compilers", lambda: iter(first))
    monkeypatch.setenv("LATENTPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LATENTPACK_KERNEL", raising=False)
    loaded = kernel.library.__wrapped__()
    assert bool(list((tmp_path / "cache").glob("*.so"))) == HAS_COMPILER
    return loaded


PLAIN, AVX2, AVX512 = 0, 1, 2  # what lp_means says
LESS = {
    PLAIN: [("#define HAS_AVX2 (had", "#define HAS_AVX2 0 * (had")],
    AVX2: [("#define HAS_AVX512 (", "#define HAS_AVX512 0 * (")],
    AVX512: [],
}  # the change by which a kernel believes that the processor has no more than that


@pytest.mark.parametrize("means", [PLAIN, AVX2, AVX512])
def test_whatever_the_processor_has_the_bits_are_those_of_the_specification(tmp_path, monkeypatch, means):
    loaded = changed_kernel(tmp_path, monkeypatch, *LESS[means])
    had = [] if loaded is None else [loaded.lp_means()]
    assert bool(had) == HAS_COMPILER and all(had_means <= means for had_means in had)
    assert [int(mark.name.split(".")[1]) for mark in (tmp_path / "cache").glob("*.passed")] == had


def test_a_kernel_that_passed_is_tested_again_when_it_is_another_file(tmp_path, monkeypatch):
    tested = []

    def agrees(c: Any) -> bool:
        tested.append(c)
        return True

    (tmp_path / "kernel.so").write_bytes(b"compiled")
    loaded = SimpleNamespace(_name=str(tmp_path / "kernel.so"), lp_means=lambda: AVX2)
    assert kernel.agreeing(loaded, kernel.SOURCE, lambda c: False) is None and not list(tmp_path.glob("*.passed"))
    assert kernel.agreeing(loaded, kernel.SOURCE, agrees) is loaded and len(tested) == 1
    assert kernel.agreeing(loaded, kernel.SOURCE, agrees) is loaded and len(tested) == 1
    tested.clear()
    (mark,) = tmp_path.glob("kernel.1.passed")
    monkeypatch.setattr(kernel, "_tested", lambda *_: "modules that were changed since")
    assert kernel.agreeing(loaded, kernel.SOURCE, agrees) is loaded and len(tested) == 1
    assert kernel.agreeing(loaded, kernel.SOURCE, agrees) is loaded and len(tested) == 1
    mark.write_bytes(b"\xff damaged")
    assert kernel.agreeing(loaded, kernel.SOURCE, agrees) is loaded and len(tested) == 2
    monkeypatch.setattr(kernel, "_put", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    mark.unlink()
    assert kernel.agreeing(loaded, kernel.SOURCE, agrees) is loaded and len(tested) == 3


@pytest.mark.parametrize(
    ("right", "wrong", "means"),
    [
        ("#define SLOT_BITS 24", "#define SLOT_BITS 23", None),
        ("    return first;\n", "    return first ? first : 1;\n", PLAIN),
        ("    return first + s - missed;\n", "    return first + s - missed - (s > 32 && first + s > missed);\n", AVX2),
        ("int64_t half = n >> 4 << 3;", "int64_t half = n >> 1;", AVX2),
        ("in->step++;", "", None),
        ("LOWER + words[position++]", "LOWER + words[position + i]", None),
        ("words[--position] = (uint32_t)x;", "words[--position] = (uint32_t)x ^ 1;", None),
        ("(uint32_t)CHANCE(s) + 1;", "(uint32_t)CHANCE(s) + 2;", PLAIN),
        ("16777216.0 + above[s]", "16777216.0 + above[0]", PLAIN),
        ("_mm256_slli_si256(sum, 8)", "_mm256_slli_si256(sum, 4)", AVX2),
        ("_mm256_loadu_pd(above)", "_mm256_set1_pd(above[0])", AVX2),
        ("_mm512_loadu_pd(above)", "_mm512_set1_pd(above[0])", AVX512),
        ("_MM_FROUND_TO_NEG_INF", "_MM_FROUND_TO_POS_INF", AVX512),
        ("_mm256_floor_pd(", "_mm256_ceil_pd(", AVX2),
        ("#define UP (1.0 + 0x1p-50)", "#define UP (1.0 - 0x1p-50)", None),
        ("counts[place * width + symbols[i]]++;", "counts[place * width]++;", None),
        ("of[place].total++;", "of[place].total += 2;", None),
        ("seen[c].row = 0;", "", None),
        ("d->counted[k][place].number = (int32_t)number;", "d->n_places[k] -= number == 2;", None),
        ("piece << done", "piece << (done & 16)", None),
        ("(uint64_t)raw[i] >> done", "(uint64_t)raw[i] >> (done & 16)", None),
    ],
)
def test_a_kernel_with_other_bits_than_the_specification_is_not_used(tmp_path, monkeypatch, right, wrong, means):
    # what is wrong here finds symbols of their alphabets: others would be counted in memory that is not the kernel's
    native = kernel.library()
    goes_there = native is None or native.lp_means() >= (means or PLAIN)  # else what is wrong never runs here, and all bits are right
    assert (changed_kernel(tmp_path, monkeypatch, *LESS.get(means, []), (right, wrong)) is None) == goes_there


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_a_symbol_is_found_within_its_table_as_among_all(n_symbols, n_tables, seed):
    rng = np.random.default_rng(seed)
    frequencies = rng.integers(1, rng.choice([2, 9, 5000]), n_tables * n_symbols)
    sums = np.concatenate([[0], frequencies.cumsum()])
    table = rng.integers(0, n_tables, 500)
    first = sums[table * n_symbols]
    target = first + rng.integers(0, sums[(table + 1) * n_symbols] - first)
    found = _last_within(sums, n_symbols, table * n_symbols, target)
    assert np.array_equal(found, sums.searchsorted(target, "right") - 1) and np.array_equal(found // n_symbols, table)


@pytest.mark.parametrize("few", [0, 1 << 40])
def test_streams_are_read_alike_however_symbols_are_searched_for(few, monkeypatch):
    monkeypatch.setattr(rans, "FEW_ROWS", few)
    monkeypatch.setattr(kernel, "library", lambda: None)
    rng = np.random.default_rng(2)
    cumulative = np.concatenate([np.zeros((700, 1), np.int64), rng.integers(1, 90, (700, 65)).cumsum(axis=1)], axis=1)
    table, symbols = rng.integers(0, 700, 5_000), rng.integers(0, 65, 5_000)
    encoder = Encoder()
    for some in range(3):
        encoder.code(cumulative, table, (symbols + some) % 65)
    decoder = Decoder(encoder.finish())
    for some in range(3):
        assert np.array_equal(decoder.code(cumulative, table, None), (symbols + some) % 65)
    decoder.finish()
