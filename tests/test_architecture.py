"""The shape of the house: which room may know which."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "prefect", "matplotlib"}



def _modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ["storage", "vae_core"])
def test_importing_a_package_to_read_archives_imports_neither_torch_nor_prefect(package):
    assert not HEAVY & _modules_after(f"import {package}")


def test_no_module_of_storage_imports_torch_or_prefect():
    code = (
        "import importlib, pkgutil, storage\n"
        "for m in pkgutil.walk_packages(storage.__path__, 'storage.'): importlib.import_module(m.name)"
    )
    assert not HEAVY & _modules_after(code)


def test_every_package_is_typed():
    for package in ("flows", "vae_core", "storage"):
        assert (ROOT / package / "py.typed").exists()


def test_modules_stay_within_four_hundred_lines():
    long = {
        str(path.relative_to(ROOT)): n_lines
        for package in ("flows", "vae_core", "storage")
        for path in (ROOT / package).rglob("*.py")
        if (n_lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_nothing_opens_a_pickle():
    forbidden = ("import pickle", "torch.load(", "allow_pickle=True", "cloudpickle")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for package in ("flows", "vae_core", "storage")
        for path in (ROOT / package).rglob("*.py")
        for word in forbidden
        if word in path.read_text(encoding="utf-8")
    ]
    assert not found


def test_reading_needs_only_what_a_plain_install_brings():
    """Every module of storage loads where nothing but the base dependencies can be imported."""
    code = """
import importlib.metadata, pkgutil, re, sys
text = importlib.metadata.requires("latentpack")
extras = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in text if "extra ==" in line}
base = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in text if "extra ==" not in line}
assert "torch" in extras and "pyarrow" in base
for name in extras - base - {"latentpack"}:
    sys.modules[name.replace("-", "_")] = None
import storage
for module in pkgutil.walk_packages(storage.__path__, "storage."):
    importlib.import_module(module.name)
assert storage.open_archive
"""
    _modules_after(code)
