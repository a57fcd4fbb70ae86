"""The optional C kernel for the inner loops of the coder; numpy (rans.py, counts.py) is the specification and always there.

kernel.c is compiled on first use with the system's C compiler into the user's cache folder, and used only after a self-test
gave the specification's bits. Without a compiler, or with LATENTPACK_KERNEL=off, numpy does the work: same bits, slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernel.c")
# no contraction to fused multiply-add: the one division in floating point must round as numpy's does
FLAGS = ("-O3", "-fPIC", "-shared", "-ffp-contract=off")
COMPILE_SECONDS = 60

Ints = NDArray[np.int64]


def cache_folder() -> Path:
    """Where compiled kernels are kept: $LATENTPACK_CACHE, else $XDG_CACHE_HOME/latentpack, else ~/.cache/latentpack."""
    named = os.environ.get("LATENTPACK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentpack"


@cache
def library() -> Any | None:
    """The loaded kernel, None when there is none to be had."""
    if os.environ.get("LATENTPACK_KERNEL", "on") == "off":
        return None
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("no C kernel, numpy does the work: %s", error)
        return None
    for name in ("lp_decode", "lp_decode_raw", "lp_encode", "lp_chain"):
        getattr(loaded, name).restype = ctypes.c_int64
    if not _agrees(loaded):
        log.warning("the compiled kernel does not give the specification's bits: numpy does the work")
        return None
    return loaded


def _agrees(c: Any) -> bool:
    """Whether the kernel's slots, smoothing and coding are what the formulas of rans.py and counts.py give."""
    rng = np.random.default_rng(7)
    n, n_symbols = 500, 11
    frequency = rng.integers(1, 1 << 20, (5, n_symbols))
    cumulative = np.concatenate([np.zeros((5, 1), np.int64), frequency.cumsum(1)], axis=1)
    table, symbols = rng.integers(0, 5, n), rng.integers(0, n_symbols, n)
    low, width = np.empty(n, np.uint32), np.empty(n, np.uint32)
    c.lp_slots(
        pointer(cumulative), size(n_symbols), pointer(table), pointer(symbols), size(n), pointer(low), pointer(width)
    )
    total = cumulative[table, -1]
    first = (cumulative[table, symbols] << 24) // total
    if not (low == first).all() or not (width == (cumulative[table, symbols + 1] << 24) // total - first).all():
        return False
    state, words = np.full(8, 1 << 32, np.uint64), np.empty(n, np.uint32)
    position = int(c.lp_encode(pointer(low), pointer(width), size(n), pointer(state), size(8), pointer(words), size(n)))
    words, out = words[position:].copy(), np.empty(n, np.int64)
    end = c.lp_decode(
        pointer(cumulative), size(n_symbols), pointer(table), size(n), pointer(state), size(8), pointer(words),
        size(len(words)), size(0), pointer(out),
    )  # fmt: skip
    if end != len(words) or not (out == symbols).all() or (state != 1 << 32).any():
        return False
    return _agrees_on_raw(c, rng) and _agrees_on_chains(c, rng)


def _agrees_on_raw(c: Any, rng: np.random.Generator) -> bool:
    n_bits = rng.integers(0, 17, 200)
    symbols, shift = rng.integers(0, 1 << n_bits), 24 - n_bits
    low, width = (symbols << shift).astype(np.uint32), (np.int64(1) << shift).astype(np.uint32)
    state, words, out = np.full(8, 1 << 32, np.uint64), np.empty(200, np.uint32), np.empty(200, np.int64)
    position = int(c.lp_encode(pointer(low), pointer(width), size(200), pointer(state), size(8), pointer(words), size(200)))
    words = words[position:].copy()
    end = c.lp_decode_raw(
        pointer(n_bits), size(200), pointer(state), size(8), pointer(words), size(len(words)), size(0), pointer(out)
    )
    return bool(end == len(words) and (out == symbols).all() and (state == 1 << 32).all())


def _agrees_on_chains(c: Any, rng: np.random.Generator) -> bool:
    """Few counts, so that the smoothing of every level shows."""
    n, n_symbols, weights = 60, 6, np.array([37, 5, 900], np.int64)
    counts = [rng.integers(0, 9, (rows, n_symbols)).astype(np.int32) for rows in (1, 4, 12)]
    contexts = [np.zeros(n, np.int64), rng.integers(0, 4, n)]
    contexts.append(contexts[1] * 3 + rng.integers(0, 3, n))
    row_of, chain, table = np.full(12, -1, np.int64), np.empty((n, n_symbols + 1), np.int64), np.empty(n, np.int64)
    found = c.lp_chain(
        size(2), pointers(counts), pointers(contexts), pointer(weights), size(n_symbols), size(n), pointer(row_of),
        pointer(np.empty(2 * n_symbols, np.int64)), pointer(chain), pointer(table),
    )  # fmt: skip
    chance = np.full((n, n_symbols), (1 << 20) // n_symbols, np.int64)
    for level, context, weight in zip(counts, contexts, weights, strict=True):
        seen = level[context].astype(np.int64)
        chance = ((seen << 24) + weight * chance) // ((seen.sum(1, keepdims=True) << 4) + weight)
    if found != len(np.unique(contexts[2])) or (row_of != -1).any() or (chain[table, 0] != 0).any():
        return False
    if (np.diff(chain[table], axis=1) != chance + 1).any():
        return False
    symbols, expected = rng.integers(0, n_symbols, n), counts[2].copy()
    np.add.at(expected, (contexts[2], symbols), 1)
    c.lp_count(pointer(counts[2]), size(n_symbols), pointer(contexts[2]), pointer(symbols), size(n))
    return bool((counts[2] == expected).all())


def _compiled(compiler: str) -> Path:
    """The kernel as a shared object, compiled unless the cache has this source by this compiler."""
    source = SOURCE.read_bytes()
    key = hashlib.sha256(b"\0".join((source, os.path.realpath(compiler).encode(), *(f.encode() for f in FLAGS)))).hexdigest()
    folder = cache_folder()
    target = folder / f"kernel-{key[:20]}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        command = [compiler, *FLAGS, "-o", name, str(SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def available() -> bool:
    """Whether the kernel is loaded and gave the specification's bits."""
    return library() is not None


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """The address of a C-contiguous array."""
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def pointers(arrays: Sequence[NDArray[Any]]) -> Any:
    """A C array of the addresses of C-contiguous arrays."""
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))


def size(n: int) -> ctypes.c_int64:
    """A C int64."""
    return ctypes.c_int64(n)
