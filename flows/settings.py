"""What a run is asked to do, as pydantic models: the form of the Prefect UI, the parameters of a deployment and the
command line all parse into these, so a bad value is refused before a run exists.

Credentials are never values here. `credentials` is the *name* of a Prefect block, e.g. `latentpack-storage/team`;
without it fsspec takes them from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the like).
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

MIB = 1024 * 1024
BLOCK_NAME = re.compile(r"[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*")
CREDENTIALS_IN_URI = re.compile(r"^[a-z0-9+.-]+(::[a-z0-9+.-]+)*://[^/@]*:[^/@]*@", re.IGNORECASE)
SECONDS_A_DAY = 86_400.0

# A Prefect server holds parameters against the JSON schema of the flow and nothing else: what only a validator here would
# refuse becomes a run that fails. So the schema has patterns (of regular expressions that Python and browsers both read);
# the validators stay, for what no pattern says and for readable messages everywhere else.
NOT_BLANK = r"^(?![A-Za-z0-9+.:-]*://[^/@]*:[^/@]*@).*\S"
BLOCK_OR_BLANK = r"^ *([a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*)? *$"
TOLERANCE_SPEC = r"^ *(lossless|exact|((abs|absolute|rmse): *)?[0-9]*\.?[0-9]+(e[+-]?[0-9]{1,2})? ?%?|psnr: *[0-9]*\.?[0-9]+) *$"
PREVIEW_SHARE = r"^ *(auto|off|(?!0*\.?0* ?%)0*(100(\.0+)?|[1-9]?[0-9](\.[0-9]+)?|\.[0-9]+) ?%) *$"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _uri(value: str) -> str:
    value = value.strip()
    if not value:
        raise ValueError("is empty: give a path or a URI such as s3://bucket/folder")
    if "\x00" in value or "\n" in value:
        raise ValueError("holds a control character")
    if CREDENTIALS_IN_URI.match(value):
        raise ValueError("holds a password: name a Prefect block in 'credentials' instead")
    return value


def _spelt_out(uri: str) -> str:
    """A local path from the root on; any other URI as it is."""
    return uri if "://" in uri else os.path.abspath(uri)


def _block(value: str | None) -> str | None:
    if value is None or not value.strip():
        return None
    if not BLOCK_NAME.fullmatch(value.strip()):
        raise ValueError(f"{value!r} is not the name of a block: give type/name, e.g. latentpack-storage/team-bucket, never a key")
    return value.strip()


FULL: Final = "full"
SAMPLED: Final = "sampled"


class SourceSettings(_Settings):
    """The raw dataset. It is only ever read."""

    uri: str = Field(
        title="Source",
        json_schema_extra={"pattern": NOT_BLANK},
        description="A file, folder or glob on any fsspec URI: Parquet, CSV, JSON lines, Arrow IPC or NPY.",
        examples=["s3://bucket/flights/*.parquet", "/data/flights"],
    )
    widen: bool = Field(
        default=False,
        title="Widen types",
        description="Let files disagree harmlessly (int32 to int64, int to float, null to anything).",
    )
    credentials: str | None = Field(
        default=None,
        title="Credentials block",
        json_schema_extra={"pattern": BLOCK_OR_BLANK},
        description="Name of a Prefect block with storage options, as type/name. Empty: the worker's environment.",
        examples=["latentpack-storage/team-bucket"],
    )

    _check_uri = field_validator("uri")(_uri)
    _check_block = field_validator("credentials")(_block)


class ArchiveSettings(_Settings):
    """Where the archive is, or will be."""

    uri: str = Field(
        title="Archive",
        json_schema_extra={"pattern": NOT_BLANK},
        description="A folder on any fsspec URI. Created on the first run, extended by a new snapshot on later ones.",
        examples=["s3://bucket/archives/flights", "/data/archives/flights"],
    )
    credentials: str | None = Field(
        default=None,
        title="Credentials block",
        json_schema_extra={"pattern": BLOCK_OR_BLANK},
        description="Name of a Prefect block with storage options, as type/name. Empty: the worker's environment.",
        examples=["latentpack-storage/team-bucket"],
    )

    _check_uri = field_validator("uri")(_uri)
    _check_block = field_validator("credentials")(_block)


def _tolerances(value: Any) -> Any:
    """'COL=SPEC' strings to a mapping; the last '=' separates, because names may hold one."""
    if value is None:
        return {}
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Sequence):
        parsed: dict[str, str] = {}
        for item in value:
            name, equals, spec = str(item).rpartition("=")
            if not equals or not name or not spec.strip():
                raise ValueError(f"{item!r} is not COLUMN=TOLERANCE, e.g. 'temp=0.05', 'temp=1%', '*=rmse:3%'")
            if parsed.setdefault(name, spec) != spec:
                raise ValueError(f"column {name!r} has two tolerances: {parsed[name]} and {spec}")
        return parsed
    return value


Spec = Annotated[str, Field(json_schema_extra={"pattern": TOLERANCE_SPEC})]
Tolerances = Annotated[dict[str, Spec], BeforeValidator(_tolerances)]


class ToleranceSettings(_Settings):
    """What may be lost: nothing, unless a column is named here."""

    columns: Tolerances = Field(
        default_factory=dict,
        title="Tolerance by column",
        description=(
            'JSON object, column to tolerance: {"temp": "0.05"} absolute, "1%" of the column\'s range, "rmse:0.02", '
            '"rmse:3%" or "psnr:30" a distortion target. "*" stands for all float columns. Empty: lossless.'
        ),
        examples=[{"temp": "0.05", "*": "0.1%"}],
    )

    @field_validator("columns")
    @classmethod
    def _check_specs(cls, value: dict[str, str]) -> dict[str, str]:
        from vae_core.errors import LatentpackError
        from vae_core.tolerance import Tolerance

        for name, spec in value.items():
            try:
                Tolerance.parse(spec)
            except LatentpackError as error:
                raise ValueError(f"column {name!r}: {error}") from error
        return value


def _preview(value: Any) -> str:
    text = str(value).strip().lower()
    if text in ("auto", "off"):
        return text
    if not text.endswith("%"):
        raise ValueError(f"{value!r} is not auto, off or a percentage such as 3%")
    try:
        share = float(text[:-1])
    except ValueError:
        share = -1.0
    if not 0 < share <= 100:
        raise ValueError(f"{value!r} is not a percentage above 0% and at most 100%")
    return text


class TrainingSettings(_Settings):
    """How much effort learning may take, and when a model is refreshed."""

    time_budget_s: float | None = Field(
        default=None,
        gt=0,
        le=SECONDS_A_DAY,
        title="Time budget",
        description="Seconds training may take; it stops early when nothing improves. Empty: 90, up to 240 above 12 million cells.",
    )
    preview: str = Field(
        default="auto",
        title="Preview",
        json_schema_extra={"pattern": PREVIEW_SHARE},
        description="Share of the archive its preview latents may take: auto, off, or a percentage such as 3%.",
    )
    favour: Literal["size", "balance", "reading"] = Field(
        default="balance",
        title="Favour",
        description="What a model is made for: size; or reading, read several times as fast where there is no C kernel, mostly 2 to 11 % "
        "larger; or a balance: size up to 200,000 rows, of more what is read sooner where it takes little more. Images and vectors as "
        "ever. A model that is there is kept until it is refreshed, and a refresh keeps to what it favours unless size or reading is "
        "asked for.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, title="Seed", description="Same seed, same data, same model.")
    sample_rows: int = Field(
        default=200_000,
        ge=1,
        title="Sample rows",
        description="Most rows to train on, drawn across all files and row groups.",
    )
    sample_bytes: int = Field(
        default=256 * MIB,
        ge=MIB,
        title="Sample bytes",
        description="Most Arrow bytes to train on; bounds memory for wide rows.",
    )
    drift_threshold: float = Field(
        default=0.10,
        gt=0,
        title="Drift threshold",
        description="Refresh the model when new data costs this share more bits a value than its training data.",
    )

    _check_preview = field_validator("preview", mode="before")(_preview)

    @property
    def preview_share(self) -> str | float:
        """What the codec takes: "auto", "off" or a fraction."""
        return self.preview if self.preview in ("auto", "off") else float(self.preview[:-1]) / 100.0


class EncodingSettings(_Settings):
    """Shape of the archive and use of the machine."""

    block_rows: int | None = Field(
        default=None,
        ge=1_024,
        le=1_048_576,
        title="Block rows",
        description="Rows a random read decodes at least. Empty: 16 MiB of them, 131,072 to 524,288 rows.",
    )
    shard_rows: int = Field(default=1_048_576, ge=1, title="Shard rows", description="Most rows of a shard: one task, one pair of objects.")
    shard_bytes: int = Field(
        default=128 * MIB,
        ge=MIB,
        title="Shard bytes",
        description="Most Arrow bytes of a shard; bounds the memory of a task.",
    )
    workers: int | None = Field(default=None, ge=1, le=64, title="Workers", description="Shards encoded at a time. Empty: half the cores.")
    compare: Literal["full", "sampled"] = Field(
        default=FULL,
        title="Compare",
        description="What conventional codings would take, for the report: full is measured on every row; sampled, of columns that are "
        "clearly smaller here, by a part of the rows, mostly 5 to 15 % too few bytes. What is stored is chosen alike, but that full "
        "encodes a shard again where a column turns out to be smaller conventionally.",
    )


class VerificationSettings(_Settings):
    """The proof before the commit: every new shard is read back, decoded and compared with the source."""

    against_source: Literal["full"] = Field(
        default="full",
        title="Check",
        description="full: every value of every new shard. There is no cheaper way to commit.",
    )
    reread_kept_shards: bool = Field(
        default=False,
        title="Check old shards too",
        description="Also check the digests of shards kept from the last snapshot.",
    )


class UpdateSettings(_Settings):
    """What to do when the source is no longer what the archive holds."""

    drop_missing: bool = Field(
        default=False,
        title="Drop vanished files",
        description="Leave rows of files that vanished from the source out of the new snapshot; old ones keep them.",
    )
    retrain: bool = Field(
        default=False,
        title="New generation",
        description="Train from scratch, encode everything again; needed to change tolerances. Old snapshots stay.",
    )
    keep_snapshots: int | None = Field(
        default=None,
        ge=1,
        title="Snapshots to keep",
        description="Afterwards remove all but so many of the newest snapshots, and what they alone named; empty keeps all.",
    )


def both_ways(settings: type[_Settings], field: str) -> str:
    """How messages name a switch, for those at a command line and those at a form: "--retrain (in the form: New generation)"."""
    return f"--{field.replace('_', '-')} (in the form: {settings.model_fields[field].title})"


RETRAIN, DROP_MISSING = both_ways(UpdateSettings, "retrain"), both_ways(UpdateSettings, "drop_missing")


class RunRequest(_Settings):
    """One run of the pipeline, whole. Also accepts the flat spelling of the command line:
    RunRequest(source="flights/", archive="out/", tolerances=["*=1%"], preview="off", seed=1)."""

    source: SourceSettings
    archive: ArchiveSettings
    tolerance: ToleranceSettings = ToleranceSettings()
    training: TrainingSettings = TrainingSettings()
    encoding: EncodingSettings = EncodingSettings()
    verification: VerificationSettings = VerificationSettings()
    update: UpdateSettings = UpdateSettings()

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        nested = dict(value)
        for name in ("source", "archive"):
            if isinstance(nested.get(name), str):
                nested[name] = {"uri": nested[name]}
        homes = {
            "tolerances": ("tolerance", "columns"),
            "widen": ("source", "widen"),
            **{name: ("training", name) for name in TrainingSettings.model_fields},
            **{name: ("encoding", name) for name in EncodingSettings.model_fields},
            **{name: ("update", name) for name in UpdateSettings.model_fields},
        }
        for flat, (section, name) in homes.items():
            if flat in nested:
                inner = nested.get(section, {})
                inner = inner.model_dump() if isinstance(inner, BaseModel) else dict(inner)
                inner[name] = nested.pop(flat)
                nested[section] = inner
        return nested

    @model_validator(mode="after")
    def _apart(self) -> "RunRequest":
        if self.source.uri.rstrip("/") == self.archive.uri.rstrip("/"):
            raise ValueError(f"source and archive are the same place: {self.source.uri}")
        if _spelt_out(self.archive.uri).startswith(_spelt_out(self.source.uri).rstrip("/") + "/"):
            raise ValueError(f"the archive {self.archive.uri} is inside the source {self.source.uri}: put it beside the source")
        return self
