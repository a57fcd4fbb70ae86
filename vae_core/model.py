"""A model: how every column of one schema becomes integers, latents and corrections. Reading needs numpy alone.

`to_files` gives what an archive stores under models/<sha256>/: the plan, the decoder's tensors and, apart, the encoder's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vae_core.base import BaseLayer
from vae_core.coders.mixed import BALANCED, FOR_SIZE, Mixing
from vae_core.columns import ColumnPlan
from vae_core.errors import CorruptArchive
from vae_core.exact.features import MOST_AMONG_ALL
from vae_core.exact.forms import is_stepped, stepped
from vae_core.exact.plans import ColumnCode, column_code_from_json
from vae_core.exact.price import BALANCE, FAVOURS, READING, SIZE, USUAL
from vae_core.exact.schedule import FEW_ROWS
from vae_core.exact.tensors import TensorCode, tensor_code_from_json
from vae_core.packing import unzstd, zstd
from vae_core.phrases import compressed, decompressed
from vae_core.schemas import schema_from_message, schema_to_message
from vae_core.shorthand import blob_bytes, shorten, spell_out

PLAN, DECODER, ENCODER = "plan.json.zst", "decoder.safetensors", "encoder.safetensors"
MODEL_VERSION = 20
FAVOUR_TOLD = 15  # the version of plans from which on balance need not be told, before it was size
COLUMNS, COLUMNS_PACKED = "columns", "columns.zstd"
MAX_PLAN_BYTES = 1 << 28
MOST_WEIGHTS = 1 << 25  # of vectors, of all columns: 128 MiB while they are read
_UNREADABLE = (
    KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, zstandard.ZstdError, SafetensorError, pa.ArrowException,
    OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to fit on. runs: lengths of runs of consecutive rows, their sum is the number of rows."""

    table: pa.Table
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FitConfig:
    """What is asked of a fit. preview: "auto", "off" or the share of the archive its latents and networks may take.

    threads : that the search for contexts counts in; what it finds does not depend on them
    favour  : "size"; "reading" where numpy alone is to read tables soon, for some more bytes; or a "balance" of the two where rows are
              many. That is asked for where nothing is, so that a refresh keeps to what its model favours
    """

    seed: int = 0
    time_budget_s: float = 90.0
    preview: str | float = "auto"
    threads: int = 1
    favour: str = USUAL


@dataclass(frozen=True, slots=True)
class FitResult:
    """A fitted model, the training curve (dicts: stage, step, seconds, bits_per_row, held_out_bits_per_row), and a summary."""

    model: Model
    curve: list[dict[str, Any]]
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Base:
    """A base layer and the columns (indices into Model.columns) it speaks of, an element each for tensors.

    prefix : names of its latents in latents.parquet start with it
    error  : of a preview on rows held out where it was fitted (RMSE over standard deviation and shares of wrong categories, the
             mean of all columns), what refreshes judge it by; None where nobody said
    """

    layer: BaseLayer
    columns: tuple[int, ...]
    prefix: str
    error: float | None = None

    @property
    def latent_names(self) -> tuple[str, ...]:
        """One per stored latent column."""
        return tuple(f"{self.prefix}{k}" for k in range(self.layer.n_columns_stored))


@dataclass(frozen=True, slots=True)
class Model:
    """The codec of one schema.

    schema             : the exact Arrow schema, metadata included
    columns            : one plan per field
    codes              : the learned columns of the exact layer, in coding order
    preview            : the base layer behind previews, None when it would not pay or was not wanted
    distortion         : the base layer that codes the columns with an rmse target, None when there are none
    uniform            : for the columns of the distortion layer, plans that quantise them uniformly to the same target instead
    rate_bits_per_row  : what the exact layer estimated on its sample, all learned columns
    n_rows             : rows of the dataset it was fitted for
    tensors            : the learned columns of tensors, each on its own
    favour             : what codes were chosen for, and will be when the model is refreshed
    """

    schema: pa.Schema
    columns: tuple[ColumnPlan, ...]
    codes: tuple[ColumnCode, ...]
    preview: Base | None = None
    distortion: Base | None = None
    rate_bits_per_row: float = 0.0
    uniform: dict[int, ColumnPlan] = field(default_factory=dict)
    n_rows: int = 0
    tensors: tuple[TensorCode, ...] = ()
    favour: str = USUAL
    _dictionary_bytes: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def unranged(self) -> Model:
        """The same without the ranges of columns that no layer speaks of: of hundreds, they would weigh as much as the rest."""
        bases = [base for base in (self.preview, self.distortion) if base is not None]
        spoken_of = set(self.learned).union(*(base.columns for base in bases))
        return replace(self, columns=tuple(p if p.index in spoken_of else p.unranged() for p in self.columns))

    def to_files(self, *, with_schema: bool = True) -> dict[str, bytes]:
        """File name -> bytes; the encoder's file only when there is an encoder.

        Without its schema a model is read by who knows it from elsewhere: an archive's snapshots state it once for all.
        """
        plan: dict[str, Any] = {
            "version": MODEL_VERSION,
            "columns": [c.to_json() for c in self.columns],
            "codes": [c.to_json() for c in self.codes],
            "tensors": [c.to_json() for c in self.tensors],
            "rate": round(self.rate_bits_per_row, 3),
            "rows": self.n_rows,
        }
        if self.favour != USUAL:
            plan["favour"] = self.favour
        if self.uniform:
            plan["uniform"] = [c.to_json() for c in self.uniform.values()]
        tensors: dict[str, NDArray[Any]] = {}
        encoder: dict[str, NDArray[Any]] = {}
        blobs: dict[str, bytes] = {}
        for start, plans in (("", self.columns), ("uniform.", self.uniform.values())):
            for column in plans:
                blobs |= {start + name: blob for name, blob in column.blobs(mixing=self.mixing).items()}
        for name, base in (("preview", self.preview), ("distortion", self.distortion)):
            if base is not None:
                about, decoder_parts, encoder_parts = base.layer.to_parts()
                plan[name] = {"about": about, "columns": list(base.columns), "prefix": base.prefix}
                if base.error is not None:
                    plan[name]["error"] = round(base.error, 3)
                tensors |= {f"{name}.{k}": v for k, v in decoder_parts.items()}
                encoder |= {f"{name}.{k}": v for k, v in encoder_parts.items()}
        tensors |= {f"dense.{t.column}": np.frombuffer(t.dense.to_bytes(), np.uint8) for t in self.tensors if t.dense is not None}
        plan, joined = shorten(plan, blobs)
        if joined:
            # hundreds of columns have dictionaries alike
            packed = zstd(joined)
            name, blob = (COLUMNS_PACKED, packed) if len(packed) < len(joined) else (COLUMNS, joined)
            tensors[name] = np.frombuffer(blob, np.uint8)
        text = json.dumps(plan, separators=(",", ":"), ensure_ascii=False).encode()
        schema = schema_to_message(self.schema) if with_schema else b""
        document = compressed(len(schema).to_bytes(4, "little") + schema + text)
        files = {PLAN: document}
        if tensors:
            files[DECODER] = save(tensors)
        if encoder:
            files[ENCODER] = save(encoder)
        return files

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], schema: pa.Schema | None = None) -> Model:
        """The inverse of to_files; without the encoder's file the model decodes and cannot encode base layers.

        schema : of a model that does not state its own
        Raises CorruptArchive on anything to_files does not write.
        """
        try:
            unpacked = decompressed(files[PLAN], MAX_PLAN_BYTES, "model")
            cut = 4 + int.from_bytes(unpacked[:4], "little")
            if cut > 4 or schema is None:
                schema = schema_from_message(unpacked[4:cut])
            plan = json.loads(unpacked[cut:])
            tensors = load(files[DECODER]) if DECODER in files else {}
            encoder = load(files[ENCODER]) if ENCODER in files else {}
            if plan["version"] not in range(1, MODEL_VERSION + 1):
                raise CorruptArchive(f"model has version {plan['version']}, this release reads up to {MODEL_VERSION}")
            blobs = {k: v.tobytes() for k, v in tensors.items() if v.dtype == np.uint8}
            if plan["version"] != 1:
                packed = blobs.get(COLUMNS_PACKED)
                joined = blobs.get(COLUMNS, b"") if packed is None else unzstd(packed, blob_bytes(plan))
                plan, blobs = spell_out(plan, schema.names, joined)
            columns = tuple(ColumnPlan.from_json(c, blobs, schema) for c in plan["columns"])
            codes = tuple(column_code_from_json(c, len(columns)) for c in plan["codes"])
            dense = {k: v.tobytes() for k, v in tensors.items() if k.startswith("dense.")}
            n_weights = sum((int(before) * int(after)) ** 2 for _, (before, _, after), _, is_dense in plan.get("tensors", []) if is_dense)
            if n_weights > MOST_WEIGHTS:
                raise CorruptArchive(f"model holds weights of vectors beyond {MOST_WEIGHTS}")
            tensor_codes = tuple(tensor_code_from_json(c, len(columns), lambda j: dense.get(f"dense.{j}")) for c in plan.get("tensors", []))
            bases = {name: _base(name, plan, tensors, encoder, columns) for name in ("preview", "distortion")}
            rate = float(plan["rate"])
            other = {name.removeprefix("uniform."): blob for name, blob in blobs.items() if name.startswith("uniform.")}
            uniform = [ColumnPlan.from_json(c, other, schema) for c in plan.get("uniform", [])]
            n_rows, favour = int(plan["rows"]), plan.get("favour", _favoured(plan))
            favour = favour if favour in FAVOURS else USUAL  # no matter to a reader
        except _UNREADABLE as error:
            raise CorruptArchive(f"model cannot be read: {type(error).__name__}: {str(error)[:120]}") from error
        layers = bases["preview"], bases["distortion"]
        model = cls(schema, columns, codes, *layers, rate, {c.index: c for c in uniform}, n_rows, tensor_codes, favour)
        model.check()
        return model

    def check(self) -> None:
        """Raise CorruptArchive unless every column is coded once, after the columns it is conditioned on."""
        if [c.index for c in self.columns] != list(range(len(self.schema))):
            raise CorruptArchive(f"model plans {len(self.columns)} columns for a schema of {len(self.schema)}")
        seen: set[int] = set()
        if sum(code.n_among for code in (*self.codes, *(code for tensor in self.tensors for code in tensor.codes))) > MOST_AMONG_ALL:
            raise CorruptArchive(f"model counts among more than {MOST_AMONG_ALL} columns")
        for code in self.codes:
            plan = self.columns[code.column]
            if code.column in seen or plan.kind not in ("categorical", "numeric") or not code.columns <= seen:
                raise CorruptArchive(f"model codes column {plan.name!r} twice, or before what it is conditioned on")
            if is_stepped(code.form) and code.form != stepped(plan):
                raise CorruptArchive(f"model counts steps of column {plan.name!r} that are not of its codes")
            if code.fill != plan.fill:
                raise CorruptArchive(f"model fills column {plan.name!r} with two different codes")
            seen.add(code.column)
        for tensor in self.tensors:
            plan = self.columns[tensor.column]
            if tensor.column in seen or plan.kind != "tensor" or tensor.planes.width != plan.width or tensor.fill != plan.fill:
                raise CorruptArchive(f"model codes column {plan.name!r} twice, or as tensors that it does not hold")
            seen.add(tensor.column)

    def dictionary_bytes(self, j: int) -> int:
        """Bytes that code-based codings of a column need in the model: its dictionary or levels, texts not as fields, which are ours."""
        if j not in self._dictionary_bytes:  # every shard asks
            self._dictionary_bytes[j] = sum(len(blob) for blob in self.columns[j].blobs(as_fields=False).values())
        return self._dictionary_bytes[j]

    @property
    def mixing(self) -> Mixing | None:
        """How its texts may be mixed, by what it favours; None where they are to be read sooner."""
        if self.favour == SIZE:
            return FOR_SIZE
        return BALANCED if self.favour == BALANCE and self.n_rows <= FEW_ROWS else None

    @property
    def learned(self) -> dict[int, ColumnCode | TensorCode]:
        """Column index -> how the exact layer codes it, in coding order."""
        found: dict[int, ColumnCode | TensorCode] = {code.column: code for code in self.codes}
        return found | {code.column: code for code in self.tensors}


def _favoured(plan: Mapping[str, Any]) -> str:
    """What a plan that does not say it was made for."""
    if plan.get("for_reading", False):
        return READING
    return SIZE if plan["version"] < FAVOUR_TOLD else USUAL


def _base(
    name: str,
    plan: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    encoder: Mapping[str, NDArray[Any]],
    columns: tuple[ColumnPlan, ...],
) -> Base | None:
    if name not in plan:
        return None
    about = plan[name]
    start = f"{name}."
    layer = BaseLayer.from_parts(
        about["about"],
        {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)},
        {k.removeprefix(start): v for k, v in encoder.items() if k.startswith(start)} or None,
    )
    picked = tuple(int(c) for c in about["columns"])
    if any(not 0 <= c < len(columns) for c in picked) or layer.decoder.n_columns != sum(columns[c].width for c in picked):
        raise CorruptArchive(f"the {name} layer speaks of {layer.decoder.n_columns} columns, the plan of {len(picked)}")
    error = about.get("error")
    return Base(layer, picked, str(about["prefix"]), None if error is None else float(error))
