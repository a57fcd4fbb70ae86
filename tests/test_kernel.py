"""Which compiler makes the kernel, that of the package ziglang among them, and what is said where there is none."""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from flows import cli
from vae_core.entropy import kernel, serial
from vae_core.exact import tally

ARCHIVE = Path(__file__).parent / "golden" / "1.11" / "fractions" / "archive"
PARTS = (kernel, serial, tally)
# writes beside itself what it was told; what it makes is no library
FAKE = """#!/bin/sh
printf '%s\\n' "$PWD" "$ZIG_LOCAL_CACHE_DIR" "$ZIG_GLOBAL_CACHE_DIR" "$@" >> "${0%/*}/told"
for last; do :; done
echo made > "$last"
"""
FAILING = """#!/bin/sh
echo 'x.c: In function f:' >&2
echo 'x.c:1:10: fatal error: stdint.h: nowhere to be found' >&2
exit 1
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def agreed(c: object) -> bool:
    raise AssertionError("what the fake compilers make is no library")


def fresh(patch: pytest.MonkeyPatch) -> None:
    """What was loaded is forgotten for the length of a test."""
    for part in PARTS:
        patch.setattr(part, "library", cache(part.library.__wrapped__))


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without a compiler, nothing in its cache, nothing loaded; commands of the system would be in `bin`."""
    for name in ("bin", "here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LATENTPACK_CACHE", str(tmp_path / "cache"))
    for name in ("LATENTPACK_KERNEL", "XDG_CACHE_HOME", *kernel.ZIG_CACHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "here")
    fresh(monkeypatch)
    return tmp_path


@pytest.fixture
def without_zig(bare, monkeypatch):
    monkeypatch.setattr(kernel, "find_spec", lambda name: None)
    return bare


def zig(place: Path, monkeypatch: pytest.MonkeyPatch, release: str = "7.7") -> Path:
    """A package ziglang that fakes one; returns what it leaves behind when it is run."""
    program(place / "ziglang" / "zig", FAKE)
    (place / "ziglang" / "__init__.py").write_text("raise AssertionError('nobody needs to import this')")
    (place / f"ziglang-{release}.dist-info").mkdir(parents=True)
    (place / f"ziglang-{release}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ziglang\nVersion: {release}\n")
    monkeypatch.syspath_prepend(str(place))
    return place / "ziglang" / "told"


def test_zig_makes_the_kernel_where_the_system_has_no_compiler_and_leaves_nothing_behind(bare, monkeypatch):
    told = zig(bare / "site", monkeypatch)
    assert kernel.load(kernel.SOURCE, (), agreed) is None and "ziglang" not in sys.modules
    folder, *caches, command = told.read_text().split("\n", 3)
    words = command.split()
    assert words[0] == "cc" and str(kernel.SOURCE) in words
    # a cache folder may be shared by several processors, and bits are to be those of the formulas
    assert {"-mcpu=baseline", "-ffp-contract=off", "-fno-sanitize=undefined"} <= set(words)
    for scratch in caches:
        assert scratch and not Path(scratch).exists() and bare not in Path(scratch).parents
    assert Path(folder) == bare / "here" and not list(Path(folder).iterdir()) and not list((bare / "home").iterdir())


def test_caches_of_zig_that_somebody_has_named_are_used(bare, monkeypatch):
    told = zig(bare / "site", monkeypatch)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", "/of/mine")
    kernel.load(kernel.SOURCE, (), agreed)
    assert told.read_text().splitlines()[2] == "/of/mine"


def test_compilers_of_the_system_come_first_and_those_that_fail_are_followed_by_others(bare, monkeypatch):
    told = zig(bare / "site", monkeypatch)
    gcc = program(bare / "bin" / "gcc", FAILING)
    (bare / "bin" / "cc").symlink_to(gcc)
    clang = program(bare / "bin" / "clang", FAKE)
    assert [Path(compiler.command[0]).name for compiler in kernel.compilers()] == ["cc", "clang", "zig"]
    kernel.load(kernel.SOURCE, (), agreed)
    said = (clang.parent / "told").read_text().split()
    assert str(kernel.SOURCE) in said and not set(kernel.ZIG_FLAGS) & set(said) and told.exists()


def test_what_is_in_the_cache_is_of_one_compiler_in_one_release(bare, monkeypatch):
    def made() -> set[str]:
        kernel.load(kernel.SOURCE, (), agreed)
        return {path.name for path in (bare / "cache").glob("*.so")}

    with monkeypatch.context() as patch:
        told = zig(bare / "site", patch)
        first = made()
        assert len(first) == 1 and made() == first and len(told.read_text().split("\ncc\n")) == 2
    (bare / "site" / "ziglang-7.7.dist-info").rename(bare / "site" / "ziglang-7.8.dist-info")
    metadata = bare / "site" / "ziglang-7.8.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("7.7", "7.8"))
    monkeypatch.syspath_prepend(str(bare / "site"))
    second = made()
    assert len(second) == 2
    program(bare / "bin" / "cc", FAKE)
    assert len(made()) == 3 > len(second)


def test_the_real_zig_makes_what_passes_its_tests_and_knows_the_processor(bare):
    had = [part.library() for part in PARTS]
    assert None not in had and len(list((bare / "cache").glob("*.passed"))) == len(PARTS)
    assert had[0].lp_means() == means_of_this_processor()
    assert not list((bare / "here").iterdir()) and not list((bare / "home").iterdir())


def means_of_this_processor() -> int:
    """What Linux says of it; where there is no Linux, what the kernel says."""
    known = Path("/proc/cpuinfo")
    flags = next((line.split() for line in known.read_text().splitlines() if line.startswith("flags")), []) if known.exists() else None
    if flags is None:
        return int(kernel.library().lp_means())
    return 0 if not {"avx2", "fma", "popcnt"} <= set(flags) else 2 if {"avx512f", "avx512vl"} <= set(flags) else 1


def test_the_kernel_knows_what_the_processor_has():
    assert kernel.library().lp_means() == means_of_this_processor()


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, list[str]]:
    assert cli.main([*arguments]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err.splitlines()


@pytest.mark.parametrize("words", [("read", str(ARCHIVE), "out.parquet"), ("verify", str(ARCHIVE), "--json", "-", "--quiet")])
def test_what_is_printed_is_the_same_by_numpy(words, without_zig, capsys, monkeypatch):
    out, _ = told(capsys, *words)
    fresh(monkeypatch)
    monkeypatch.setenv("LATENTPACK_KERNEL", "off")
    assert out and told(capsys, *words) == (out, [])


def test_a_reader_without_a_compiler_is_told_once_what_to_do(without_zig, capsys):
    _, lines = told(capsys, "read", str(ARCHIVE), "out.parquet")
    assert serial.library() is None  # it says the same, to nobody
    assert len(lines) == 1 and lines[0].startswith("latentpack: no C compiler here") and "pip install 'latentpack[kernel]'" in lines[0]
    out, lines = told(capsys, "verify", str(ARCHIVE), "--json", "-")
    assert json.loads(out) and not any("compiler" in line for line in lines)  # all of this process know


def test_json_stays_json_where_something_is_told(without_zig, capsys):
    out, lines = told(capsys, "verify", str(ARCHIVE), "--json", "-")
    assert json.loads(out) and sum("latentpack[kernel]" in line for line in lines) == 1


def test_of_several_parts_that_cannot_be_made_the_first_is_told_of(without_zig, capsys, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "info", lambda *_: sum(part.library() is not None for part in PARTS))
    _, lines = told(capsys, "info", str(ARCHIVE))
    assert len(lines) == 1


def test_nobody_is_told_who_asked_for_numpy_or_for_quiet_or_does_not_decode(without_zig, capsys, monkeypatch):
    assert told(capsys, "read", str(ARCHIVE), "out.parquet", "--quiet") == ("", [])
    fresh(monkeypatch)
    assert told(capsys, "info", str(ARCHIVE))[1] == []
    monkeypatch.setenv("LATENTPACK_KERNEL", "off")
    assert told(capsys, "read", str(ARCHIVE), "out.parquet")[1] == []


def test_nobody_is_told_where_there_is_a_kernel(tmp_path, capsys, monkeypatch):
    fresh(monkeypatch)
    assert told(capsys, "read", str(ARCHIVE), str(tmp_path / "out.parquet"))[1] == []


def test_a_compiler_that_fails_is_told_of_in_its_own_words(without_zig, capsys):
    program(without_zig / "bin" / "cc", FAILING)
    (line,) = told(capsys, "read", str(ARCHIVE), "out.parquet")[1]
    assert "fatal error: stdint.h: nowhere to be found" in line and "latentpack[kernel]" in line


def test_another_compiler_is_not_advised_where_the_cache_is_what_fails(without_zig, capsys, monkeypatch):
    program(without_zig / "bin" / "cc", FAKE)
    (without_zig / "file").write_text("")
    monkeypatch.setenv("LATENTPACK_CACHE", str(without_zig / "file" / "cache"))
    (line,) = told(capsys, "read", str(ARCHIVE), "out.parquet")[1]
    assert os.strerror(20) in line and "latentpack[kernel]" not in line


def by(real: kernel.Compiler, path: Path, text: str) -> Path:
    """A compiler of that name that calls a real one in the middle of a script."""
    return program(path, "#!/bin/sh\n" + text.replace("REAL", " ".join(map(shlex.quote, real.command))))


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ('for last; do :; done\necho "int x;" > "$last.c"\nexec REAL -shared "$last.c" -o "$last"\n', "has no lp_read"),
        ('exec REAL "$@" -DSLOT_BITS=23 -w\n', "does not give the specification's bits"),
    ],
)  # fmt: skip
def test_a_compiler_whose_kernel_is_not_that_of_the_source_is_followed_by_the_next(bare, monkeypatch, caplog, script, fault):
    monkeypatch.undo()  # the real compilers are found by the real PATH
    real = next(kernel.compilers())
    monkeypatch.setenv("LATENTPACK_CACHE", str(bare / "cache"))
    source = bare / "kernel.c"
    source.write_text(kernel.SOURCE.read_text().replace("#define SLOT_BITS 24", "#ifndef SLOT_BITS\n#define SLOT_BITS 24\n#endif"))
    wrong = kernel.Compiler((str(by(real, bare / "bin" / "cc", script)),), "wrong")
    monkeypatch.setattr(kernel, "SOURCE", source)
    monkeypatch.setattr(kernel, "compilers", lambda: iter([wrong, real]))
    caplog.set_level(logging.INFO, kernel.__name__)
    assert kernel.library.__wrapped__() is not None and fault in caplog.text and not caplog.text.count("numpy reads")
    monkeypatch.setattr(kernel, "compilers", lambda: iter([wrong]))
    assert kernel.library.__wrapped__() is None and caplog.text.count("numpy reads") == 1


def test_a_compiler_that_takes_too_long_leaves_nothing_and_is_not_waited_for_again(bare, monkeypatch):
    scratch = bare / "scratch"
    scratch.mkdir()
    sleep = shutil.which("sleep", path=os.defpath)
    mkdir = shutil.which("mkdir", path=os.defpath)
    program(bare / "bin" / "cc", f'''#!/bin/sh
echo begun >> "{bare}/begun"
for last; do :; done
({sleep} 1; echo late > "$last"; {mkdir} -p "$ZIG_LOCAL_CACHE_DIR/late"; echo late > "{bare}/late") &
wait
''')
    monkeypatch.setattr(kernel, "COMPILE_SECONDS", 0.3)
    monkeypatch.setattr(kernel, "OVERDUE", set())
    monkeypatch.setattr(kernel, "find_spec", lambda name: None)
    monkeypatch.setattr(kernel.tempfile, "tempdir", str(scratch))
    assert [kernel.load(part.SOURCE, (), agreed) for part in PARTS] == [None] * 3
    time.sleep(1.2)
    assert (bare / "begun").read_text() == "begun\n" and not (bare / "late").exists()
    assert not list(scratch.iterdir()) and not list((bare / "cache").iterdir())
