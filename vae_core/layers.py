"""The base layers of a model: fitted to a sample, within their share of the bytes and of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.base import BaseColumn, Fitness, fit_base, fitness
from vae_core.base.layer import MAX_COLUMNS
from vae_core.coders import conventional
from vae_core.columns import Codes, ColumnPlan, decode_column, encode_column, one_array
from vae_core.latents import beside
from vae_core.model import Base, FitConfig, Model, Sample
from vae_core.tables import flat_floats

Progress = Callable[[Mapping[str, Any]], None]

PREVIEW_SHARE = 0.0065  # 0.8 % is told: the estimate it is taken of may be off by a sixth
MIN_PREVIEW_BYTES = 400
WORTH_A_PREVIEW = 400  # bytes of one that nobody asked for: less tells little, and a small archive is read whole in no time
LEAST_TARGET, MOST_TARGET = 1e-6, float(1 << 62)
PREVIEW_METADATA = 300  # what a shard's latents take beside themselves: their file's frame, their digest, their measured error
PREVIEW_CELLS, PREVIEW_ROWS = 4_000_000, 60_000
PREVIEW_RUN = 512  # rows in a row: what a table holds in one place only has to be seen, and windows are far shorter
PREVIEW_WINDOWS = (1, 8, 16, 32, 64)
STRANGE = 0.005  # of the values: so many may have no code in a plan that stays
PREVIEW_WORSE = (1.1, 0.02)  # times, and plus: the error of a preview beyond which new rows are not what it was fitted to
DISTORTION_TIME, DISTORTION_TIME_AGAIN = 0.6, 0.3  # of the budget: from scratch, and from where an earlier layer was
PREVIEW_TIME, PREVIEW_TIME_LEAST, PREVIEW_TIME_AGAIN = 0.3, 0.2, 0.15


class Report:
    """Turns events of a fit into the curve and into calls of the caller's progress."""

    def __init__(self, progress: Progress | None, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.began = now, now()
        self.curve: list[dict[str, Any]] = []
        self._progress = progress

    def __call__(self, stage: str, step: int, bits: float, held_out: float) -> None:
        point = {
            "stage": stage, "step": step, "seconds": round(self.now() - self.began, 3),
            "bits_per_row": round(bits, 4), "held_out_bits_per_row": round(held_out, 4),
        }  # fmt: skip
        self.curve.append(point)
        if self._progress is not None:
            self._progress(point)


def thinned(sample: Sample, n_rows: int, run: int = 4096) -> tuple[pa.Table, tuple[int, ...]]:
    """At most about n_rows rows of a sample, as runs of so many consecutive rows, spread evenly."""
    table, total = sample.table, sample.table.num_rows
    if total <= n_rows:
        return table, sample.runs
    starts = np.arange(0, total - run + 1, run)
    keep = starts[np.linspace(0, len(starts) - 1, max(1, n_rows // run)).astype(np.int64)]
    pieces = [table.slice(int(s), run) for s in np.unique(keep)]
    return pa.concat_tables(pieces), tuple(run for _ in pieces)


def preview_rows(sample: Sample, n_columns: int) -> tuple[pa.Table, tuple[int, ...]]:
    """The rows of a sample that a preview of so many columns is fitted to, and judged on."""
    return thinned(sample, max(8_192, min(PREVIEW_ROWS, PREVIEW_CELLS // max(1, n_columns))), PREVIEW_RUN)


def fit_distortion(
    plans: Sequence[ColumnPlan],
    uniform: Sequence[ColumnPlan],
    sample: Sample,
    config: FitConfig,
    n_total: int,
    report: Report,
    known: Base | None = None,
) -> tuple[Base | None, list[dict[str, Any]]]:
    """The layer for columns with an rmse target; None when none holds the targets in fewer bytes than uniform quantisation
    with the best conventional coding: model, latents, states and misfits of all rows against all rows (measured on the sample).

    known : the layer of an earlier fit, which the search keeps to: its window or single rows, its kind, half the time
    """
    asked = [p.index for p in plans if p.tolerance.is_distortion and p.kind in ("numeric", "tensor")]
    targets = {j: plans[j].tolerance.value / _code_unit(plans[j]) for j in asked}
    # a range beyond what its type can subtract has no unit; a target far below a code asks for every value as it is, and one beyond all
    # codes for nothing that a layer could tell
    asked = [j for j in asked if LEAST_TARGET < targets[j] < MOST_TARGET]
    if not asked or not sample.table.num_rows or sum(plans[j].width for j in asked) > MAX_COLUMNS:
        return None, []
    table, runs = thinned(sample, max(2_000, 40_000_000 // (8 * sum(plans[j].width for j in asked))))
    values, present = matrix(plans, asked, table)
    found = fit_base(
        base_columns(plans, asked, targets), values, present, n_rows_total=n_total, runs=runs, seed=config.seed,
        time_budget_s=(DISTORTION_TIME if known is None else DISTORTION_TIME_AGAIN) * config.time_budget_s, **_like(known),
        progress=lambda p: report(f"distortion {p.stage}", p.step, p.bits_per_row, p.held_out_bits_per_row),
    )  # fmt: skip
    # what either way takes on top: states and misfits; the layer's grids have dictionaries of their own beside the uniform ones
    scalar, beyond = 0.0, 0.0
    for j in asked:
        array = one_array(table.column(j))
        scalar += conventional.rank(uniform[j], array, encode_column(uniform[j], array))[0][1] * n_total / table.num_rows
        beyond += sum(len(part) for part in beside(encode_column(plans[j], array)).values()) * n_total / table.num_rows
        beyond += sum(len(blob) for blob in plans[j].blobs().values())
    siblings = [{**row, "n_bytes": round(row["n_bytes"] + beyond)} for row in found.compared]
    compared = [*siblings, {"kind": "uniform quantisation, conventional coding", "n_bytes": round(scalar)}]
    if found.layer is None or next(row["n_bytes"] for row in siblings if row["kind"] == found.layer.kind) >= round(scalar):
        return None, compared
    return Base(found.layer, tuple(asked), _free_prefix(plans, "z")), compared


def _code_unit(plan: ColumnPlan) -> float:
    """The raw units of one code of a distortion column's grid."""
    ends = np.array([plan.lo, plan.hi], np.int64).repeat(plan.width)
    low_high = flat_floats(decode_column(plan, Codes(ends, None, None), approximate=True))
    span = plan.hi - plan.lo
    with np.errstate(over="ignore"):
        unit = float(low_high[-1] - low_high[0]) / span if span else 0.0
    return unit or 1.0


def fit_preview(
    model: Model, sample: Sample, config: FitConfig, n_total: int, report: Report, *,
    known: Base | None = None, seconds: float | None = None,
) -> tuple[Base | None, list[dict[str, Any]]]:
    """The preview's layer within its share of the archive, None when that is too little to pay for any.

    known   : the layer of an earlier fit, as for `fit_distortion`
    seconds : it may take; None: what is left of the budget, within bounds
    """
    if config.preview == "off":
        return None, []
    share = preview_share(config)
    taken = set() if model.distortion is None else set(model.distortion.columns)
    picked = [
        p.index for p in model.columns
        if p.is_measured and p.index not in taken and p.hi > p.lo
    ]  # fmt: skip
    budget_bytes = share * model.rate_bits_per_row * n_total / 8 - PREVIEW_METADATA * (config.preview == "auto")
    if not picked or budget_bytes < (WORTH_A_PREVIEW if config.preview == "auto" else MIN_PREVIEW_BYTES):
        return None, []
    budget = config.time_budget_s
    if seconds is None:
        seconds = min(PREVIEW_TIME * budget, max(PREVIEW_TIME_LEAST * budget, report.began + budget - report.now()))
    table, runs = preview_rows(sample, len(picked))
    values, present = matrix(model.columns, picked, table)
    ordered = any(code.value.in_order for code in model.codes)
    alike = {"windows": PREVIEW_WINDOWS if ordered else (1,)} | _like(known)
    if known is not None:
        alike |= {"hasty": True}
    found = fit_base(
        base_columns(model.columns, picked, {}), values, present, bits_per_row=8 * budget_bytes / n_total,
        n_rows_total=n_total, runs=runs, seed=config.seed, time_budget_s=seconds, **alike,
        progress=lambda p: report(f"preview {p.stage}", p.step, p.bits_per_row, p.held_out_bits_per_row),
    )  # fmt: skip
    if found.layer is None:
        return None, list(found.compared)
    prefix = _free_prefix(model.columns, "p")
    return Base(found.layer, tuple(picked), prefix, found.error), list(found.compared)


def preview_share(config: FitConfig) -> float:
    """What a preview's latents and networks are fitted to, of the estimated bytes of the learned columns."""
    return PREVIEW_SHARE if config.preview == "auto" else float(config.preview) / 1.2


class PreviewRefresh:
    """What becomes of a model's preview as the model is refreshed on other rows.

    It stays where it is as good for them as where it was fitted, or nobody wants one. Else another is fitted, from the window and
    the kind that were best; where that tells less than the old one does, the old one stays after all, or none.

    columns : those whose plans have to stay, for the old layer may
    """

    def __init__(self, model: Model, sample: Sample, config: FitConfig, anew: Collection[int] = ()) -> None:
        self._old, self._sample, self._config = model.preview, sample, config
        self._now: Fitness | None = None
        old = self._old
        if old is None or not set(anew).isdisjoint(old.columns):
            return
        if config.preview != "off" and old.layer.encoder is not None and sample.table.num_rows:
            self._now = _fitness(model, old, sample)

    @property
    def columns(self) -> set[int]:
        if self._old is None or (self._now is None and self._config.preview != "off"):
            return set()
        return set(self._old.columns)

    def settled(self, draft: Model, n_total: int, report: Report) -> tuple[Base | None, list[dict[str, Any]]]:
        """The layer and the siblings it was compared with, for a model that is ready but for its preview."""
        old, now = self._old, self._now
        if self._config.preview == "off":
            stays = old is not None and not _taken(draft) & set(old.columns)
            return (old if stays else None), []
        pays = now is not None and now.is_worth_it and now.bits_per_row <= 1.2 * preview_share(self._config) * draft.rate_bits_per_row
        factor, more = PREVIEW_WORSE
        if old is not None and now is not None and pays and (old.error is None or now.error <= factor * old.error + more):
            return old, []
        seconds = PREVIEW_TIME_AGAIN * self._config.time_budget_s
        new, compared = fit_preview(draft, self._sample, self._config, n_total, report, known=old, seconds=seconds)
        if old is not None and now is not None and pays and (new is None or new.error is None or new.error >= now.error):
            return replace(old, error=now.error), compared
        return new, compared


def _fitness(model: Model, base: Base, sample: Sample) -> Fitness | None:
    """How the layer fits the rows; None where a plan has no code for many values of a column, of which no error tells."""
    table, runs = preview_rows(sample, len(base.columns))
    if not all(still_fits(model.columns[j], Sample(table, runs)) for j in base.columns):
        return None
    values, present = matrix(model.columns, base.columns, table)
    return fitness(base.layer, base_columns(model.columns, base.columns, {}), values, present, runs)


def _taken(model: Model) -> set[int]:
    return set() if model.distortion is None else set(model.distortion.columns)


def still_fits(plan: ColumnPlan, sample: Sample) -> bool:
    """Whether a plan has codes for all but a few values of a sample, within the range that layers and contexts reckon with."""
    if plan.kind == "verbatim":
        return True
    codes = encode_column(plan, sample.table.column(plan.index))
    strange = 0 if codes.misfits is None else len(codes.misfits)
    if plan.kind == "numeric" and plan.n_levels is None:
        beyond = (codes.values < plan.lo) | (codes.values > plan.hi)
        strange += int((beyond if codes.state is None else beyond & (codes.state == 0)).sum())
    return strange <= STRANGE * max(1, len(codes.values))


def _like(known: Base | None) -> dict[str, Any]:
    """What narrows the search for a layer to the like of one, or to single rows, which need the least of a layer: where a linear map
    won, no network is trained again."""
    if known is None:
        return {}
    kind = known.layer.kind
    return {"windows": tuple(sorted({1, known.layer.window})), "kinds": ("klt",) if kind == "klt" else ("klt", kind)}


def base_columns(plans: Sequence[ColumnPlan], indices: Sequence[int], targets: Mapping[int, float]) -> list[BaseColumn]:
    """The columns of a base layer, an element each for a tensor; targets (column -> rmse) are in code units."""
    found: list[BaseColumn] = []
    for j in indices:
        plan = plans[j]
        kind = "categorical" if plan.kind == "categorical" else "numeric"
        lo, hi = (0, plan.n_levels - 1) if plan.n_levels is not None else (plan.lo, plan.hi)
        levels = plan.n_levels if kind == "categorical" else None
        found += [BaseColumn(plan.name, kind, lo, hi, levels, targets.get(j))] * plan.width
    return found


def matrix(
    plans: Sequence[ColumnPlan], indices: Sequence[int], table: pa.Table
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n, D) codes and (n, D) presence of some columns of a table."""
    values, present = [], []
    for j in indices:
        codes: Codes = encode_column(plans[j], table.column(j))
        width = plans[j].width
        values.append(codes.values.reshape(-1, width))
        present.append(np.ones_like(values[-1], bool) if codes.state is None else (codes.state == 0).reshape(-1, width))
    return np.concatenate(values, 1), np.concatenate(present, 1)


def _free_prefix(plans: Sequence[ColumnPlan], wanted: str) -> str:
    while any(p.name.startswith(wanted) and p.name[len(wanted) :].isdigit() for p in plans):
        wanted += "_"
    return wanted
