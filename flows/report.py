"""The report of one run as a value: what was stored, what it saved, and what proves it.

`RunReport` is what `run_pipeline` returns, what `--json` writes, what `reports/<run>.json` holds and what the terminal
table, the HTML page and the Prefect artifact are drawn from. Bytes are bytes on disk or on the wire; `ratio_*` is the
other's bytes over ours, so above 1 is a win; savings are percentages of the other's bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from flows.words import human_bytes

REPORT_VERSION = 1
COMMITTED = "committed"
NOTHING_TO_DO = "nothing-to-do"

LEARNED_CODINGS = ("network", "counts", "learned", "vae", "klt", "linear", "latent")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class ProgressEvent(_Frozen):
    """One line of news from a running pipeline, in the order things happen.

    stage         : "server" | "ingest" | "train" | "encode" | "verify" | "commit" | "report"
    message       : a short phrase for people; may be empty
    done, total   : work in the stage's own unit (rows, or seconds of the budget while training); total 0 when unknown
    bits_per_row  : rate on training batches; held_out_bits_per_row: rate on rows never trained on
    """

    stage: str
    message: str = ""
    done: float = 0.0
    total: float = 0.0
    bits_per_row: float | None = None
    held_out_bits_per_row: float | None = None


class ColumnReport(_Frozen):
    """One dataset column.

    coding             : what won, e.g. "network", "counts", "latents", "pco", "parquet-dictionary"
    bytes              : its share of the data bytes (corrections, verbatim, and latents where they are its coding)
    conventional_bytes : the best conventional coding of the same values at the same tolerance, measured on this data
    tolerance          : resolved, in the column's own units: 0 is lossless
    tolerance_kind     : "lossless" | "absolute" (worst error is bounded) | "rmse" (the root mean square error is)
    max_abs_error      : the worst |decoded - raw| over finite values, by decoding
    n_null             : nulls; None where they are not counted by column, of columns that are stored as one
    violations         : values outside the promise, by decoding; `mismatches` are those of them in exact columns
    """

    name: str
    coding: str = ""
    bytes: int = 0
    conventional_bytes: int = 0
    tolerance: float = 0.0
    tolerance_kind: str = "lossless"
    max_abs_error: float = 0.0
    violations: int = 0
    rmse: float | None = None
    n_rows: int = 0
    n_null: int | None = 0
    mismatches: int = 0
    type: str = ""
    kind: str = ""

    @property
    def learned(self) -> bool:
        """Whether the column's coding was learned, rather than conventional or verbatim."""
        return self.coding.lower().startswith(LEARNED_CODINGS)


class TransferReport(_Frozen):
    """Bytes a reader moves: opening the archive included."""

    full_read_bytes: int = 0
    preview_bytes: int = 0


class SecondsReport(_Frozen):
    """Wall time by stage. compare: what conventional codings would take, measured while encoding, and not in `encode`."""

    ingest: float = 0.0
    train: float = 0.0
    encode: float = 0.0
    compare: float = 0.0
    verify: float = 0.0
    total: float = 0.0


class VerificationReport(_Frozen):
    """What the full decode before the commit found. digest: sha256 of the decoded data."""

    rows: int = 0
    violations: int = 0
    mismatches: int = 0
    digest: str = ""


class TrainingPoint(_Frozen):
    """One point of the training curve. step counts optimiser steps, seconds wall time since training began."""

    step: int = 0
    seconds: float = 0.0
    bits_per_row: float | None = None
    held_out_bits_per_row: float | None = None
    stage: str = ""


class LatentReport(_Frozen):
    """The latents stored by this run: of the distortion layer where there is one, else of the preview's.

    role    : "distortion" | "preview" | "" without any          kind : what codes them, e.g. "vae", "klt"
    n       : latents a window of `window` rows
    n_bytes : of all shards, as stored                           zero_fraction : over all, and by latent of the window
    comparison : siblings at the same error (distortion) or budget (preview), fewest bytes first: {"kind", "window",
                 "n_latents", "n_bytes", "model_bytes", "worst_ratio", "mean_ratio", "accuracy", "sparsity", "chosen"}.
                 n_bytes is an estimate for the dataset, decoder and encoder included; ratios are RMSE over the target
                 (distortion) or over the standard deviation (preview), on held-out rows. `chosen` is what the shards of this
                 run hold: two rows where some of them took uniform steps instead, none where they keep no preview.
    """

    role: str = ""
    kind: str = ""
    n: int = 0
    window: int = 1
    n_bytes: int = 0
    zero_fraction: float = 0.0
    zero_fraction_by_dimension: list[float] = Field(default_factory=list)
    comparison: list[dict[str, Any]] = Field(default_factory=list)


class PreviewColumn(_Frozen):
    """How well latents alone give a column: relative_rmse (of its standard deviation) for numbers, else accuracy."""

    name: str
    relative_rmse: float | None = None
    accuracy: float | None = None


class PreviewReport(_Frozen):
    """The preview: what its latents cost inside the archive, how good it is, and the siblings at the same budget."""

    bytes: int = 0
    columns: list[PreviewColumn] = Field(default_factory=list)
    comparison: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def relative_rmse(self) -> float | None:
        """Mean over the numeric columns; None without any."""
        return _mean([column.relative_rmse for column in self.columns])

    @property
    def accuracy(self) -> float | None:
        """Mean over the other columns; None without any."""
        return _mean([column.accuracy for column in self.columns])


class DriftReport(_Frozen):
    """Bits per value of new data over the model's own training figure; above the threshold the model is refreshed."""

    ratio: float | None = None
    threshold: float | None = None
    refreshed: bool = False


class OlderReport(_Frozen):
    """Bytes of archive_bytes that older snapshots alone hold, and how many of them are models: what a vacuum could let go."""

    bytes: int = 0
    model: int = 0


class RunReport(_Frozen):
    """Everything one run has to say. The keys of DESIGN's `--json`, and extras.

    raw_bytes     : source objects as stored
    archive_bytes : every object under the archive but `reports/`; = latents + corrections + verbatim + model + metadata
    older         : of archive_bytes, what the newest snapshot does not name and older ones do
    report_bytes  : objects under `reports/`
    leaves        : where nested columns are divided, the columns as they are stored, elements of a vector together; else empty
    favours       : what the newest model's codes were chosen for: "size", "reading" or a "balance" of both; "" without a model
    decision      : what the run found to do: "first", "append", "replace", "new-generation", "nothing-to-do"
    statement     : the same in words
    note          : what is amiss with the archive, or with this report, a sentence; empty when nothing is
    summary       : the codec's own account of the fit, empty when a stored model was kept
    """

    report_version: int = REPORT_VERSION
    status: str = COMMITTED
    run: str = ""
    source: str = ""
    archive: str = ""
    created_at: str = ""
    writer: str = ""
    decision: str = ""
    statement: str = ""
    note: str = ""

    rows: int = 0
    n_new_rows: int = 0
    n_new_files: int = 0
    raw_bytes: int = 0
    arrow_bytes: int = 0
    archive_bytes: int = 0
    older: OlderReport = Field(default_factory=OlderReport)
    latents: int = 0
    corrections: int = 0
    verbatim: int = 0
    model: int = 0
    metadata: int = 0
    report_bytes: int = 0
    conventional_bytes: int = 0
    columns: list[ColumnReport] = Field(default_factory=list)
    leaves: list[ColumnReport] = Field(default_factory=list)
    transfer: TransferReport = Field(default_factory=TransferReport)
    seconds: SecondsReport = Field(default_factory=SecondsReport)
    peak_rss_bytes: int = 0
    snapshot: int = 0
    model_digest: str = ""
    favours: str = ""

    verification: VerificationReport = Field(default_factory=VerificationReport)
    training: list[TrainingPoint] = Field(default_factory=list)
    latent: LatentReport = Field(default_factory=LatentReport)
    preview: PreviewReport = Field(default_factory=PreviewReport)
    drift: DriftReport = Field(default_factory=DriftReport)
    report_json: str = ""
    report_html: str = ""
    ui_url: str = ""
    summary: dict[str, Any] = Field(default_factory=dict)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio_vs_raw(self) -> float:
        """Raw object bytes over archive bytes; 0 when the archive is empty."""
        return self.raw_bytes / self.archive_bytes if self.archive_bytes else 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio_vs_conventional(self) -> float:
        """Best conventional bytes over archive bytes; 0 when the archive is empty."""
        return self.conventional_bytes / self.archive_bytes if self.archive_bytes else 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def saving_vs_raw_percent(self) -> float:
        """Storage saved against the raw objects, per cent; negative when larger."""
        return _saving(self.archive_bytes, self.raw_bytes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def saving_vs_conventional_percent(self) -> float:
        """Storage saved against the best conventional coding, per cent; negative when larger."""
        return _saving(self.archive_bytes, self.conventional_bytes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def transfer_saving_percent(self) -> float:
        """Bytes saved when everything is read from the archive instead of from the raw objects, per cent."""
        return _saving(self.transfer.full_read_bytes, self.raw_bytes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def parts(self) -> dict[str, int]:
        """The parts of archive_bytes, in the order people read them."""
        return {
            "latents": self.latents,
            "corrections": self.corrections,
            "verbatim": self.verbatim,
            "model": self.model,
            "metadata": self.metadata,
        }

    @property
    def lines(self) -> list[ColumnReport]:
        """The columns as people are shown them."""
        return self.leaves or self.columns

    @property
    def worst(self) -> ColumnReport | None:
        """The column whose error used most of its tolerance; None when every column is lossless."""
        bounded = [c for c in self.lines if c.tolerance > 0]
        return max(bounded, key=error_share, default=None)

    @property
    def verdict(self) -> str:
        """One sentence: was learning worth it, against the best conventional coding. A second one is the note, if any."""
        return f"{self._verdict} {self.note}".rstrip()

    @property
    def _verdict(self) -> str:
        if self.status == NOTHING_TO_DO:
            return "Nothing to do: the archive already holds every file of this source."
        if not self.conventional_bytes:
            return "There is nothing to compare: the data takes no bytes either way."
        saving = self.saving_vs_conventional_percent
        best = "the best conventional coding at the same tolerance"
        if saving >= 0.5:
            return f"{saving:.1f} % smaller than {best}."
        newest = self.archive_bytes - self.older.bytes
        newest_saving = _saving(newest, self.conventional_bytes)
        go = "`latentpack vacuum --keep N` lets old snapshots go"
        if newest_saving >= 0.5:
            return (
                f"The newest snapshot, {human_bytes(newest)}, is {newest_saving:.1f} % smaller than {best}; "
                f"with {human_bytes(self.older.bytes)} that older snapshots hold, the archive is {_size(saving)} it ({go})."
            )
        said = f"A VAE was not worth it here: {_size(newest_saving)} {best} ({self._reason(newest)})."
        if self.older.bytes < 0.01 * self.archive_bytes:
            return said
        return f"{said} This is of the newest snapshot; older ones hold {human_bytes(self.older.bytes)} more ({go})."

    def _reason(self, newest: int) -> str:
        """Why the newest snapshot, of so many bytes, is no smaller than conventional codings."""
        model, data = self.model - self.older.model, sum(column.bytes for column in self.columns)
        metadata = newest - model - data - self.preview.bytes
        if not any(column.learned for column in self.columns):
            on_top = metadata > model and newest > self.conventional_bytes
            return "conventional codings were kept" + (f", {human_bytes(metadata)} of metadata come on top" if on_top else "")
        if self.conventional_bytes - data < model:
            return "a learned coding won some columns, not enough to pay for its model"
        beside = "the metadata" if self.preview.bytes < metadata else "the preview"
        return f"a learned coding won some columns and paid for its model, not for {beside} as well"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. `model` is bytes; `model_digest` names the model."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunReport:
        """Undo to_json. Computed figures are computed again."""
        computed = set(cls.model_computed_fields)
        return cls.model_validate({key: item for key, item in value.items() if key not in computed})


def error_share(column: ColumnReport) -> float:
    """Error over tolerance, at most 1 when the promise was kept; 0 for lossless columns."""
    if column.tolerance <= 0:
        return 0.0
    error = column.rmse if column.tolerance_kind == "rmse" and column.rmse is not None else column.max_abs_error
    return error / column.tolerance


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _size(saving: float) -> str:
    return f"{-saving:.1f} % larger than" if saving < -0.05 else "about the size of"


def _saving(ours: int, other: int) -> float:
    return 100.0 * (1.0 - ours / other) if other else 0.0
