"""Optional C for inner loops, kernel.c those of the coder; numpy (rans.py, counts.py) is the specification and always there.

A source is compiled on first use with the system's C compiler into the user's cache folder, and used only after a self-test
gave the specification's results. Without a compiler, or with LATENTPACK_KERNEL=off, numpy does the work: same bits, slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernel.c")
# no contraction to fused multiply-add: what is computed in floating point is to be the same everywhere
FLAGS = ("-O3", "-fPIC", "-shared", "-ffp-contract=off")
LIBRARIES = ("-lm",)
COMPILE_SECONDS = 60
ENDED = -1  # as in kernel.c
ADDRESS = ctypes.c_void_p


def cache_folder() -> Path:
    """Where compiled kernels are kept: $LATENTPACK_CACHE, else $XDG_CACHE_HOME/latentpack, else ~/.cache/latentpack."""
    named = os.environ.get("LATENTPACK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentpack"


@cache
def library() -> Any | None:
    """The loaded kernel, None when there is none to be had."""
    loaded = load(SOURCE, ("lp_read", "lp_write", "lp_read_forward", "lp_write_forward", "lp_means"))
    if loaded is None:
        return None
    from vae_core.entropy.agreement import agrees  # made of this module's pieces

    return agreeing(loaded, SOURCE, agrees)


def load(source: Path, counting: Sequence[str]) -> Any | None:
    """A C source compiled and loaded, None where that cannot be; `counting` names its functions that return an int64."""
    if os.environ.get("LATENTPACK_KERNEL", "on") == "off":
        return None
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler, source)))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("no %s, numpy does the work: %s", source.name, error)
        return None
    for name in counting:
        getattr(loaded, name).restype = ctypes.c_int64
    return loaded


def agreeing(loaded: Any, source: Path, agrees: Callable[[Any], bool]) -> Any | None:
    """The loaded library if it passes its self-test, else None. One that passed once, on a processor of the same means, need not again:
    a mark beside it says so."""
    path = Path(loaded._name)
    mark = path.with_suffix(f".{loaded.lp_means() if hasattr(loaded, 'lp_means') else 0}.passed")
    try:
        digest = _tested(path, source)
        if mark.read_text(encoding="ascii") == digest:
            return loaded
    except (OSError, ValueError):
        pass  # not tested yet, or the mark is damaged: tested again
    if not agrees(loaded):
        log.warning("%s as compiled here does not give the specification's bits: numpy does the work", source.name)
        return None
    try:
        digest = _tested(path, source)
        _put(mark, lambda name: Path(name).write_text(digest, encoding="ascii"))
    except OSError as error:
        log.info("%s passed its self-test, which cannot be noted: %s", source.name, error)
    return loaded


def _tested(library: Path, source: Path) -> str:
    """A digest of all that a self-test is of: the compiled file, and the modules beside its source and this one that call and test it."""
    parts = [library, *sorted({*Path(__file__).parent.glob("*.py"), *source.parent.glob("*.py")})]
    return hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in parts)).hexdigest()


def _put(target: Path, fill: Callable[[str], object]) -> None:
    """A file that is there whole or not at all: `fill` writes it under another name."""
    handle, name = tempfile.mkstemp(suffix=target.suffix, dir=target.parent)
    os.close(handle)
    try:
        fill(name)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def _compiled(compiler: str, source: Path) -> Path:
    """A source as a shared object, compiled unless the cache has it by this compiler."""
    flags = (*FLAGS, *LIBRARIES)
    key = hashlib.sha256(b"\0".join((source.read_bytes(), os.path.realpath(compiler).encode(), *(f.encode() for f in flags)))).hexdigest()
    folder = cache_folder()
    target = folder / f"{source.stem}-{key[:20]}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [compiler, *FLAGS, str(source), *LIBRARIES, "-o"]
    _put(target, lambda name: subprocess.run([*command, name], check=True, capture_output=True, timeout=COMPILE_SECONDS))
    return target


def available() -> bool:
    """Whether the kernel is loaded and gave the specification's bits."""
    return library() is not None


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """The address of a C-contiguous array."""
    return ctypes.c_void_p(address(array))


def address(array: NDArray[Any]) -> int:
    """The same as a number."""
    assert array.flags.c_contiguous
    return int(array.__array_interface__["data"][0])  # as array.ctypes.data, in half the time


def pointers(arrays: Sequence[NDArray[Any]]) -> Any:
    """A C array of the addresses of C-contiguous arrays."""
    return (ctypes.c_void_p * len(arrays))(*(address(a) for a in arrays))


def size(n: int) -> ctypes.c_int64:
    """A C int64."""
    return ctypes.c_int64(n)
