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
    counts, context = rng.integers(0, 1 << 20, (1, 6)).astype(np.int32), np.zeros(3, np.int64)
    chain, table = np.empty((3, 7), np.int64), np.empty(3, np.int64)
    weight, prior = 37, (1 << 20) // 6
    found = c.lp_chain(
        size(0), pointers([counts]), pointers([context]), pointer(np.array([weight], np.int64)), size(6), size(3),
        pointer(np.full(1, -1, np.int64)), pointer(np.empty(12, np.int64)), pointer(chain), pointer(table),
    )  # fmt: skip
    seen = counts[0].astype(np.int64)
    expected = ((seen << 24) + weight * prior) // ((int(seen.sum()) << 4) + weight) + 1
    return bool(found == 1 and not table.any() and (np.diff(chain[0]) == expected).all() and chain[0, 0] == 0)


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
