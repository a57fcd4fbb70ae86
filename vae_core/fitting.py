"""Fitting a model to a sample: column plans, the exact layer's contexts, then the base layers. The only room that trains."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_core.base import BaseColumn, fit_base
from vae_core.base.layer import MAX_COLUMNS
from vae_core.coders import conventional, lattices
from vae_core.columns import Codes, ColumnPlan, TableProfile, decode_column, encode_column, one_array, plan_columns, without_levels
from vae_core.exact.arrange import Arrangement, arranged_before
from vae_core.exact.costs import root
from vae_core.exact.ordering import SampleColumn, orders
from vae_core.exact.plans import ColumnCode
from vae_core.exact.sampled import Sampled, decoded_sample
from vae_core.latents import beside
from vae_core.layout import uses_codes
from vae_core.model import Base, FitConfig, FitResult, Model, Sample
from vae_core.tables import flat_floats, rmse_of
from vae_core.tolerance import Tolerance

Progress = Callable[[Mapping[str, Any]], None]

EXACT_ROWS = 60_000
EXACT_CELLS = 6_000_000  # for the last search, which holds six levels or so of each
EXACT_SHARE, EXACT_LEAST = 0.6, 0.2
REFRESH_SHARE = 0.15  # of the budget, for contexts of new rows: the dearest columns first
# of the time for the exact layer: after it no column is priced, no other order, no other place is searched
SHARE_OF_PRICES, SHARE_OF_ORDERS, SHARE_OF_MOVES = 0.25, 0.4, 0.65
PREVIEW_SHARE = 0.025  # the promise is 3 %: the estimate it is taken of may be off by a sixth
MIN_PREVIEW_BYTES = 400
WORTH_A_PREVIEW = 1_000  # bytes of one that nobody asked for: less tells little, and a small archive is read whole in no time
LEAST_TARGET = 1e-6
JUDGED_ROWS = 1 << 15
PREVIEW_METADATA = 300  # what a shard's latents take beside themselves: their file's frame, their digest, their measured error
PREVIEW_CELLS = 1_200_000
MIN_JUDGED_DICTIONARY = 4_096
UNIFORM_BOUNDS = (0.45 * float(np.sqrt(12.0)), 1.25, 1.0)  # times the rmse target; 0.9 of the half-width that has it on the average


class _Report:
    """Turns events of a fit into the curve and into calls of the caller's progress."""

    def __init__(self, progress: Progress | None) -> None:
        self.began = time.monotonic()
        self.curve: list[dict[str, Any]] = []
        self._progress = progress

    def __call__(self, stage: str, step: int, bits: float, held_out: float) -> None:
        point = {
            "stage": stage, "step": step, "seconds": round(time.monotonic() - self.began, 3),
            "bits_per_row": round(bits, 4), "held_out_bits_per_row": round(held_out, 4),
        }  # fmt: skip
        self.curve.append(point)
        if self._progress is not None:
            self._progress(point)


def fit(
    sample: Sample,
    profile: TableProfile,
    schema: pa.Schema,
    tolerances: Mapping[str, Tolerance],
    config: FitConfig,
    progress: Progress | None = None,
) -> FitResult:
    """Fit a model to a sample. `tolerances` are resolved (columns.tolerance.resolve). Deterministic for a seed and budget
    that does not run out; a budget that does leaves out contexts and networks, never correctness."""
    report = _Report(progress)
    plans = plan_columns(schema, profile, sample.table, tolerances)
    n_total = max(profile_rows(profile), sample.table.num_rows)
    uniform = _uniform(plans, schema, profile, sample, tolerances)
    distortion, compared = _fit_distortion(plans, uniform, sample, config, n_total, report)
    layered = set() if distortion is None else set(distortion.columns)
    plans = tuple(p if p.index in layered or not p.tolerance.is_distortion else uniform[p.index] for p in plans)
    plans = _without_costly_dictionaries(plans, sample, n_total)
    taken = set() if distortion is None else set(distortion.columns)
    codes, rate = _fit_exact(plans, sample, taken, config, n_total, report)
    draft = Model(schema, plans, codes, None, distortion, rate)
    preview, previews = _fit_preview(draft, sample, config, n_total, report)
    fallback = {j: uniform[j] for j in sorted(taken)}
    spoken_of = {code.column for code in codes} | taken | (set() if preview is None else set(preview.columns))
    plans = tuple(p if p.index in spoken_of else p.unranged() for p in plans)
    model = Model(schema, plans, codes, preview, distortion, rate, fallback, n_total)
    summary = {
        "rate_bits_per_row": rate, "n_learned": len(codes), "n_columns": len(plans),
        "seconds": report.curve[-1]["seconds"] if report.curve else 0.0,
        "distortion_compared": compared, "preview_compared": previews,
    }  # fmt: skip
    return FitResult(model, report.curve, summary)


def refresh(
    model: Model, sample: Sample, profile: TableProfile, config: FitConfig, progress: Progress | None = None
) -> FitResult:
    """A new version of a model for new rows of the same schema and tolerances, starting from the old one's plans.

    The plans of learned columns and tolerances stay as they are unless a dictionary no longer holds the new values; contexts are
    searched anew on the new sample (seconds), the preview layer is kept.
    """
    report = _Report(progress)
    tolerances = {plan.name: plan.tolerance for plan in model.columns if not plan.tolerance.is_lossless}
    fresh = plan_columns(model.schema, profile, sample.table, tolerances)
    kept = set() if model.distortion is None else set(model.distortion.columns)
    kept |= set() if model.preview is None else set(model.preview.columns)
    learned = {code.column for code in model.codes}
    plans = tuple(
        old if old.index in kept or (old.index in learned and _still_fits(old, sample)) else new
        for old, new in zip(model.columns, fresh, strict=True)
    )
    taken = set() if model.distortion is None else set(model.distortion.columns)
    n_total = max(profile_rows(profile), sample.table.num_rows)
    codes, rate = _fit_exact(plans, sample, taken, config, n_total, report, model.codes)
    refreshed = Model(model.schema, plans, codes, model.preview, model.distortion, rate, model.uniform, n_total)
    return FitResult(refreshed, report.curve, {"rate_bits_per_row": rate, "refreshed": True, "n_learned": len(codes)})


def profile_rows(profile: TableProfile) -> int:
    """Rows a profile has seen."""
    return max((int(c.n_rows) for c in profile.columns.values()), default=0)


def _still_fits(plan: ColumnPlan, sample: Sample) -> bool:
    if plan.kind == "verbatim":
        return True
    codes = encode_column(plan, sample.table.column(plan.index))
    return codes.misfits is None or len(codes.misfits) <= 0.005 * max(1, len(codes.values))


def thinned(sample: Sample, n_rows: int) -> tuple[pa.Table, tuple[int, ...]]:
    """At most about n_rows rows of a sample, as runs of consecutive rows, spread evenly."""
    table, total = sample.table, sample.table.num_rows
    if total <= n_rows:
        return table, sample.runs
    run = 4096
    starts = np.arange(0, total - run + 1, run)
    keep = starts[np.linspace(0, len(starts) - 1, max(1, n_rows // run)).astype(np.int64)]
    pieces = [table.slice(int(s), run) for s in np.unique(keep)]
    return pa.concat_tables(pieces), tuple(run for _ in pieces)


def _fit_exact(
    plans: Sequence[ColumnPlan], sample: Sample, taken: set[int], config: FitConfig, n_total: int, report: _Report,
    known: Sequence[ColumnCode] = (),
) -> tuple[tuple[ColumnCode, ...], float]:
    """Codes of every learnable column in coding order, and their estimated bits a row; `known`: those an earlier fit has found, whose
    order is not searched for again."""
    picked = _picked(plans, thinned(sample, EXACT_ROWS)[0], taken)
    if not picked or not len(picked[0].values):
        return (), 0.0
    n = len(picked[0].values)
    began, budget = time.monotonic(), config.time_budget_s
    # looking at columns and a distortion layer take of the same budget, but not all of it
    deadline = max(report.began + EXACT_SHARE * budget, began + EXACT_LEAST * budget)
    if known:
        deadline = began + REFRESH_SHARE * budget

    def tick() -> bool:
        return time.monotonic() < deadline

    def whole_bits(found: Arrangement) -> float:
        return found.bits + sum(bits for j, bits in alone.items() if j not in found.found)

    rng = np.random.default_rng(config.seed)
    alone = {c.column: _plain_bits(c) for c in picked}
    report("exact", 0, plain := sum(alone.values()) / n, plain)
    best: Arrangement | None = None
    with ThreadPoolExecutor(max(1, config.threads)) as pool:
        each = pool.map if config.threads > 1 else map
        patience = began + SHARE_OF_PRICES * (deadline - began)
        candidates, gains = orders(picked, rng, each, lambda: time.monotonic() < patience)
        amounts = frozenset(c.column for c in picked if not c.categorical)
        sampled = Sampled(n, n_total, decoded_sample(picked), gains=gains, numeric=amounts, each=each)
        if known:
            best = arranged_before(known, dataclasses.replace(sampled, remembers=True), picked, tick)
            best = best.searched_again(dataclasses.replace(sampled, remembers=True), picked)
            report("exact", len(best.order), best.bits / n, best.bits / n)
            return _with_rate(best, picked, n)
        for k, positions in enumerate(candidates):
            if best is None or time.monotonic() < began + SHARE_OF_ORDERS * (deadline - began):
                found = Arrangement(sampled, picked, tick)
                for position in positions:
                    if found.late:
                        break
                    found.add(picked[position].column)
                    report("exact" + " again" * k, len(found.order), now := whole_bits(found) / n, now)
                best = found if best is None or whole_bits(found) < whole_bits(best) else best
        assert best is not None
        arranged = best
        patience = began + SHARE_OF_MOVES * (deadline - began)
        arranged.improve(lambda: report("order", len(arranged.order), arranged.bits / n, arranged.bits / n), patience)
        more, _ = thinned(sample, EXACT_CELLS // len(picked))
        if tick():
            # contexts that 60,000 rows are too few to learn, and memories; the order takes many searches, these are one a column
            picked = _picked(plans, more, taken) if more.num_rows > n else picked
            n = len(picked[0].values)
            whole = Sampled(n, n_total, decoded_sample(picked), gains=gains, numeric=amounts, each=each, remembers=True)
            best = arranged.searched_again(whole, picked)
            report("exact contexts", len(best.order), best.bits / n, best.bits / n)
    return _with_rate(best, picked, n)


def _with_rate(found: Arrangement, picked: Sequence[SampleColumn], n: int) -> tuple[tuple[ColumnCode, ...], float]:
    """The codes in coding order, and their bits a row."""
    # a shard takes hidden steps where those are less: what the preview may cost is a share of that
    stepped = {c.column: lattices.bits(c.values, c.state) for c in picked}
    bits = {c.column: found.found[c.column][1] if c.column in found.found else _plain_bits(c) for c in picked}
    return found.codes, sum(min(bits[j], stepped[j]) for j in bits) / n


def _picked(plans: Sequence[ColumnPlan], table: pa.Table, taken: set[int]) -> list[SampleColumn]:
    """The learnable columns of a table, but for those a layer has taken."""
    found: list[SampleColumn] = []
    for plan in plans:
        if plan.kind not in ("categorical", "numeric") or plan.opaque or plan.index in taken:
            continue
        codes = encode_column(plan, table.column(plan.index))
        hi = plan.n_levels - 1 if plan.n_levels is not None else plan.hi
        lo = 0 if plan.n_levels is not None else plan.lo
        found.append(SampleColumn(plan.index, codes.values, codes.state, plan.fill, lo, hi, plan.kind == "categorical"))
    return found


def _plain_bits(column: SampleColumn) -> float:
    """Bits of a column on its own: no context, wide ones by uniform low digits."""
    span = column.hi - column.lo + 1
    shift = max(0, span.bit_length() - 12)
    with np.errstate(over="ignore"):
        high = np.clip((column.values - column.lo) >> shift, 0, span >> shift)
    return root(high, (span >> shift) + 1).bits + shift * len(high)


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


def _fit_distortion(
    plans: Sequence[ColumnPlan],
    uniform: Sequence[ColumnPlan],
    sample: Sample,
    config: FitConfig,
    n_total: int,
    report: _Report,
) -> tuple[Base | None, list[dict[str, Any]]]:
    """The layer for columns with an rmse target; None when none holds the targets in fewer bytes than uniform quantisation
    with the best conventional coding: model, latents, states and misfits of all rows against all rows (measured on the sample)."""
    asked = [p.index for p in plans if p.tolerance.is_distortion and p.kind in ("numeric", "tensor")]
    targets = {j: plans[j].tolerance.value / _code_unit(plans[j]) for j in asked}
    # a range beyond what its type can subtract has no unit; a target far below a code asks for every value as it is
    asked = [j for j in asked if LEAST_TARGET < targets[j] < float("inf")]
    if not asked or not sample.table.num_rows or sum(plans[j].width for j in asked) > MAX_COLUMNS:
        return None, []
    table, runs = thinned(sample, max(2_000, 40_000_000 // (8 * sum(plans[j].width for j in asked))))
    values, present = matrix(plans, asked, table)
    found = fit_base(
        base_columns(plans, asked, targets), values, present, n_rows_total=n_total, runs=runs, seed=config.seed,
        time_budget_s=0.6 * config.time_budget_s,
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


def _uniform(
    plans: tuple[ColumnPlan, ...],
    schema: pa.Schema,
    profile: TableProfile,
    sample: Sample,
    tolerances: Mapping[str, Tolerance],
) -> tuple[ColumnPlan, ...]:
    """Plans where every distortion column is quantised uniformly instead, by the widest of a few bounds that keeps the target on
    the sample: bins of sqrt(12) rmse do on the average, but not where values sit on their edges; a bound of the target always does.
    """
    undecided = {name: t for name, t in tolerances.items() if t.is_distortion}
    found, bounded = plans, dict(tolerances)
    for factor in UNIFORM_BOUNDS if undecided else ():
        bounded |= {name: Tolerance("absolute", factor * t.value) for name, t in undecided.items()}
        found = plan_columns(schema, profile, sample.table, bounded)
        undecided = {p.name: undecided[p.name] for p in found if p.name in undecided and not _meets(p, sample, undecided[p.name])}
    return found


def _meets(plan: ColumnPlan, sample: Sample, target: Tolerance) -> bool:
    """Whether a plan keeps an rmse target on the sample, with a margin for the rows it does not hold."""
    if plan.kind == "verbatim":
        return True
    array = one_array(sample.table.column(plan.index))
    return rmse_of(array, decode_column(plan, encode_column(plan, array))) <= 0.97 * target.value


def _without_costly_dictionaries(plans: Sequence[ColumnPlan], sample: Sample, n_total: int) -> tuple[ColumnPlan, ...]:
    """The plans, but a column whose dictionary costs more than it saves goes without.

    Judged on the sample with conventional codings under either plan.
    """
    found = []
    for plan in plans:
        n_bytes = sum(len(blob) for blob in plan.blobs().values()) if plan.kind in ("categorical", "numeric") else 0
        if n_bytes > MIN_JUDGED_DICTIONARY and plan.is_lossless and sample.table.num_rows:
            array = one_array(sample.table.column(plan.index).slice(0, JUDGED_ROWS))
            other = without_levels(plan, sample.table.column(plan.index))
            scale = n_total / len(array)
            coded = [n for name, n in conventional.rank(plan, array, encode_column(plan, array)) if uses_codes(name)]
            codes = None if other.kind == "verbatim" else encode_column(other, array)
            plain = min(n for _, n in conventional.rank(other, array, codes))
            if lattices.worth_trying(other, codes):
                plain = min(plain, conventional.measure(other, array, codes, ["lattices"])[1])
            if plain * scale < min(coded, default=0) * scale + n_bytes:
                plan = other
        found.append(plan)
    return tuple(found)


def _free_prefix(plans: Sequence[ColumnPlan], wanted: str) -> str:
    while any(p.name.startswith(wanted) and p.name[len(wanted) :].isdigit() for p in plans):
        wanted += "_"
    return wanted


def _fit_preview(
    model: Model, sample: Sample, config: FitConfig, n_total: int, report: _Report
) -> tuple[Base | None, list[dict[str, Any]]]:
    """The preview's layer within its share of the archive, None when that is too little to pay for any."""
    if config.preview == "off":
        return None, []
    share = PREVIEW_SHARE if config.preview == "auto" else float(config.preview) / 1.2
    taken = set() if model.distortion is None else set(model.distortion.columns)
    picked = [
        p.index for p in model.columns
        if p.is_measured and p.index not in taken and p.hi > p.lo
    ]  # fmt: skip
    if config.preview == "auto" and not model.codes:
        return None, []  # nothing saves what it would cost
    budget_bytes = share * model.rate_bits_per_row * n_total / 8 - PREVIEW_METADATA * (config.preview == "auto")
    if not picked or budget_bytes < (WORTH_A_PREVIEW if config.preview == "auto" else MIN_PREVIEW_BYTES):
        return None, []
    budget = config.time_budget_s
    table, runs = thinned(sample, max(8_192, min(60_000, PREVIEW_CELLS // len(picked))))
    values, present = matrix(model.columns, picked, table)
    ordered = any(code.value.in_order for code in model.codes)
    found = fit_base(
        base_columns(model.columns, picked, {}), values, present, bits_per_row=8 * budget_bytes / n_total,
        n_rows_total=n_total, runs=runs, windows=(1, 8, 16) if ordered else (1,), seed=config.seed,
        time_budget_s=min(0.3 * budget, max(0.2 * budget, report.began + budget - time.monotonic())),
        progress=lambda p: report(f"preview {p.stage}", p.step, p.bits_per_row, p.held_out_bits_per_row),
    )  # fmt: skip
    if found.layer is None:
        return None, list(found.compared)
    prefix = _free_prefix(model.columns, "p")
    return Base(found.layer, tuple(picked), prefix), list(found.compared)
