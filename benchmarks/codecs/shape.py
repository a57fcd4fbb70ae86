"""The shape every codec of the benchmark has, and what it is told and tells besides the bytes."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

LOSSLESS = "lossless"
BUDGET_S = 60.0

Bounds = Mapping[str, Any]


@dataclass(slots=True)
class Effort:
    """How long a codec may train, and how long it did: encoding speed is told without it."""

    budget_s: float = BUDGET_S
    train_s: float = 0.0

    @contextmanager
    def training(self) -> Iterator[None]:
        """What runs inside is training."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.train_s += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Peer:
    """A codec.

    encode(table, bounds, effort) : bytes that hold everything decoding needs; bounds are resolved tolerances by column
    decode(bytes)                 : the table, schema and all
    needs                         : the module it cannot do without
    uses_bound                    : False when it keeps every bit whatever the bound
    has_lossless                  : False when it cannot keep every bit
    trained                       : it learns for Effort.budget_s; only `--full` has the time
    """

    name: str
    title: str
    note: str
    encode: Callable[[pa.Table, Bounds, Effort], bytes]
    decode: Callable[[bytes], pa.Table]
    needs: str | None = None
    uses_bound: bool = True
    has_lossless: bool = True
    trained: bool = False

    @property
    def available(self) -> bool:
        """Whether the module it needs can be imported."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None

    def missing(self, bound: str) -> str:
        """Why it cannot be measured at a bound; empty when it can."""
        if not self.available:
            return f"the package {self.needs} is not installed"
        if bound == LOSSLESS and not self.has_lossless:
            return "has no lossless mode"
        return ""
