"""Optional C for inner loops, kernel.c those of the coder; numpy (rans.py, counts.py) is the specification and always there.

A source is compiled on first use with the system's C compiler, or with that of the package ziglang, into the user's cache folder, and
used only after a self-test gave the specification's results. Without a compiler, or with LATENTPACK_KERNEL=off, numpy does the work:
same bits, slower.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

log = logging.getLogger(__name__)
missing = log.getChild("missing")  # says that numpy does the work though nobody asked for that, and nothing else: the command line shows it
SOURCE = Path(__file__).with_name("kernel.c")
# no contraction to fused multiply-add: what is computed in floating point is to be the same everywhere
FLAGS = ("-O3", "-fPIC", "-shared", "-ffp-contract=off")
LIBRARIES = ("-lm",)
SYSTEM_COMPILERS = ("cc", "gcc", "clang")
# zig compiles for the very processor it runs on unless told otherwise, and a cache folder may be shared by several. Its runtime, of which
# nothing is needed, takes seconds to build; what it can check while running costs time, and symbols for a debugger are most of the file
ZIG_FLAGS = ("-mcpu=baseline", "-rtlib=none", "-fno-sanitize=undefined", "-s")
ZIG_CACHES = ("ZIG_LOCAL_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR")
COMPILE_SECONDS = 60
OVERDUE: set[str] = set()  # compilers that took longer: not waited for again, there are several sources
ENDED = -1  # as in kernel.c
ADDRESS = ctypes.c_void_p


def cache_folder() -> Path:
    """Where compiled kernels are kept: $LATENTPACK_CACHE, else $XDG_CACHE_HOME/latentpack, else ~/.cache/latentpack."""
    named = os.environ.get("LATENTPACK_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentpack"


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler that may be tried.

    command  : its file, and what it is always told
    identity : what tells its work from another's in the cache
    """

    command: tuple[str, ...]
    identity: str


def compilers() -> Iterator[Compiler]:
    """What compilers there are: those of the system, then that of the package ziglang, which needs nothing of the system."""
    seen: set[str] = set()
    for path in filter(None, map(shutil.which, SYSTEM_COMPILERS)):
        identity = os.path.realpath(path)
        if identity not in seen:  # cc is one of the others
            seen.add(identity)
            yield Compiler((path,), identity)
    spec = find_spec("ziglang")
    for folder in (spec and spec.submodule_search_locations) or ():
        if zig := shutil.which("zig", path=folder):
            # the file is called the same on every machine, unlike those of system compilers, and after every upgrade
            yield Compiler((zig, "cc", *ZIG_FLAGS), f"{os.path.realpath(zig)} {_release()} {sysconfig.get_config_var('SOABI')}")


def _release() -> str:
    from importlib.metadata import PackageNotFoundError, version  # takes longer than all else here, and mostly nobody asks

    try:
        return version("ziglang")
    except PackageNotFoundError:
        return "of no release"


@cache
def library() -> Any | None:
    """The loaded kernel, None when there is none to be had."""
    from vae_core.entropy.agreement import agrees  # made of this module's pieces

    return load(SOURCE, ("lp_read", "lp_write", "lp_read_forward", "lp_write_forward", "lp_means"), agrees)


class _Unfit(Exception):
    """What a compiler made is not what the source says."""


def load(source: Path, counting: Sequence[str], agrees: Callable[[Any], bool]) -> Any | None:
    """A C source compiled, loaded and tested, by the first compiler that can; None where none can.

    counting : names of its functions that return an int64        agrees : its self-test
    """
    if os.environ.get("LATENTPACK_KERNEL", "on") == "off":
        return None
    failure: Exception | None = None
    for compiler in compilers():
        try:
            loaded = ctypes.CDLL(str(_compiled(compiler, source)))
            for name in counting:
                if not hasattr(loaded, name):
                    raise _Unfit(f"what {compiler.command[0]} made of {source.name} has no {name}")
                getattr(loaded, name).restype = ctypes.c_int64
            if agreeing(loaded, source, agrees) is not None:
                return loaded
            raise _Unfit(f"{source.name} as {compiler.command[0]} compiles it does not give the specification's bits")
        except (OSError, _Unfit, subprocess.SubprocessError) as error:
            log.info("no %s by %s: %s", source.name, compiler.command[0], _said(error))
            failure = error
    _tell(failure)
    return None


def _tell(failure: Exception | None) -> None:
    """That numpy does the work, why, and what can be done: another compiler is of use where there is none, or where it was at fault."""
    why = "no C compiler here" if failure is None else f"the C kernel cannot be built here ({_said(failure)})"
    helps = not isinstance(failure, OSError) and find_spec("ziglang") is None
    advice = "; pip install 'latentpack[kernel]' brings a compiler" if helps else ""
    missing.info("%s: numpy reads, 7 times slower or more%s", why, advice)


def _said(error: Exception) -> str:
    """One line of a failure, the first error where a compiler tells of several."""
    output: bytes = getattr(error, "stderr", None) or b""
    lines = [line for line in output.decode(errors="replace").splitlines() if "error" in line]
    return lines[0].strip() if lines else str(error)


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


def _compiled(compiler: Compiler, source: Path) -> Path:
    """A source as a shared object, compiled unless the cache has it by this compiler."""
    said = (*compiler.command[1:], *FLAGS, *LIBRARIES)
    key = hashlib.sha256(b"\0".join((source.read_bytes(), compiler.identity.encode(), *(word.encode() for word in said)))).hexdigest()
    folder = cache_folder()
    target = folder / f"{source.stem}-{key[:20]}.so"
    if target.exists():
        return target
    if compiler.identity in OVERDUE:
        raise subprocess.TimeoutExpired(compiler.command, COMPILE_SECONDS)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        _put(target, lambda name: _compile([*compiler.command, *FLAGS, str(source), *LIBRARIES, "-o", name]))
    except subprocess.TimeoutExpired:
        OVERDUE.add(compiler.identity)
        raise
    return target


def _compile(command: Sequence[str]) -> None:
    """Run a compiler. What zig keeps for the next time is not for us to leave in the folder we happen to be in, or at home."""
    with tempfile.TemporaryDirectory(prefix="latentpack-", ignore_cleanup_errors=True) as scratch:
        environment = {**dict.fromkeys(ZIG_CACHES, scratch), **os.environ}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, start_new_session=True
        )
        try:
            _, said = process.communicate(timeout=COMPILE_SECONDS)
        except BaseException:
            # a compiler has the work done by children, which would write on into folders that are gone
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


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
