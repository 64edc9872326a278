"""The sections of a configuration, each with its settings, their defaults and their rules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from metaeol_udf.config.source import FORMATS, PASSAGE_KEY, PASSAGE_TEXT, SourceConfig
from metaeol_udf.errors import ConfigError, Problem
from metaeol_udf.setting_types import is_count, problem, refuse, secret_problem
from metaeol_udf.spec import DTYPES, LONG_TEXTS, QUANTIZATIONS, VALUES, EmbeddingSpec

#: Settings of few values, for completion and for messages.
CHOICES: dict[str, tuple[str, ...]] = {
    "embedding.dtype": DTYPES,
    "embedding.quantization": QUANTIZATIONS,
    "embedding.values": VALUES,
    "embedding.long_texts": LONG_TEXTS,
    "source.format": FORMATS,
    "runtime.device": ("auto", "cpu", "cuda"),
    "runtime.max_batch_tokens": ("auto",),
    "target.deleted": ("remove", "keep"),
    "quality.pairs_figure": ("spearman", "ndcg"),
    "stream.trigger": ("availableNow",),
    "stream.start": ("earliest", "latest"),
}

#: Settings that are paths, or may be.
PATHS = frozenset({
    "source.table", "source.path", "target.table", "runtime.model_cache", "runtime.report", "runtime.report_page", "runtime.prometheus",
    "stream.checkpoint", "evaluation.data", "quality.pairs",
})  # fmt: skip

# Rules that stand beside a type hint, for a value of another type, and in `__post_init__`, for a value out of range.
_AUTO_OR_COUNT = "auto or a positive integer"
_NULL_OR_COUNT = "null or a positive integer"
_START = "earliest, latest or a version"
_KEY_PLACE = re.compile(r"env:\w+|file:.+")


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """The table that vectors are written to; no table means back into the source."""

    table: str | None = None
    deleted: str = "remove"  # of a target of its own, rows of keys that left the source: remove or keep
    max_deleted_fraction: float = 0.2  # of the target's rows; a run that would remove more stops before it writes
    fingerprint_key: str | None = None  # of the texts' hashes: env:NAME or file:PATH

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        yield secret_problem("target.table", self.table)
        yield problem(
            "target.deleted", self.deleted in CHOICES["target.deleted"], self.deleted, "remove or keep", CHOICES["target.deleted"]
        )
        in_range = 0.0 <= self.max_deleted_fraction <= 1.0
        yield problem("target.max_deleted_fraction", in_range, self.max_deleted_fraction, "a number from 0 to 1")
        key = self.fingerprint_key
        known = key is None or _KEY_PLACE.fullmatch(key) is not None
        yield problem("target.fingerprint_key", known, key, "null, env: and the name of a variable, or file: and a path")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """How the work is done. Nothing in here changes a vector beyond rounding."""

    device: str = "auto"  # auto, cpu, cuda or cuda:N
    max_batch_tokens: Annotated[int | str, _AUTO_OR_COUNT] = "auto"  # tokens of one forward pass
    wave_rows: int = 50_000  # unique texts between two journal commits
    max_failed_fraction: float = 0.01  # of the selected rows; more end the job with status 3
    task_gpus: Annotated[int | None, _NULL_OR_COUNT] = None  # GPUs of a task in the embedding stages alone; null leaves that to the session
    journal_retention_hours: int = 168  # that the journal's files stay in storage after their vectors are published
    model_cache: str | None = None  # folder on every machine for a copy of the model; null copies from slow mounts only
    report: str | None = None  # path of the JSON run report
    report_page: str | None = None  # path of the same as an HTML page, with a map of the vectors
    # true: a run in MLflow's current experiment; a string: in that experiment
    mlflow: Annotated[bool | str | None, "true, false or the name of an experiment"] = None
    prometheus: str | None = None  # path of a textfile for node_exporter

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        budget = self.max_batch_tokens
        yield problem(
            "runtime.max_batch_tokens", budget == "auto" or is_count(budget), budget, _AUTO_OR_COUNT, CHOICES["runtime.max_batch_tokens"]
        )
        yield problem("runtime.wave_rows", is_count(self.wave_rows), self.wave_rows, "a positive integer")
        in_range = 0.0 <= self.max_failed_fraction <= 1.0
        yield problem("runtime.max_failed_fraction", in_range, self.max_failed_fraction, "a number from 0 to 1")
        kept = self.journal_retention_hours
        yield problem("runtime.journal_retention_hours", kept >= 0, kept, "an integer from 0")
        kind, _, number = self.device.partition(":")
        known = self.device in CHOICES["runtime.device"] or (kind == "cuda" and number.isdecimal())
        yield problem("runtime.device", known, self.device, "auto, cpu, cuda or cuda:N", CHOICES["runtime.device"])
        yield problem("runtime.task_gpus", self.task_gpus is None or is_count(self.task_gpus), self.task_gpus, _NULL_OR_COUNT)
        page = self.report_page is None or self.report_page.endswith((".html", ".htm"))
        yield problem("runtime.report_page", page, self.report_page, "a path that ends in .html")
        textfile = self.prometheus is None or self.prometheus.endswith(".prom")  # node_exporter reads no other
        yield problem("runtime.prometheus", textfile, self.prometheus, "a path that ends in .prom")


_INTERVAL = re.compile(r"[1-9][0-9]* (second|minute|hour)s?")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How `metaeol stream` follows the source. No other command reads it."""

    checkpoint: str | None = None  # folder of Spark's checkpoints; null: beside the target
    trigger: str = "availableNow"  # all there is, then end; or an interval such as 30 seconds, without an end
    # where a first run begins: all rows, only later commits, or at that version of the source
    start: Annotated[int | str, _START] = "earliest"
    max_files: int = 1_000  # of the source, in one micro-batch

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        known = self.trigger == "availableNow" or _INTERVAL.fullmatch(self.trigger) is not None
        yield problem("stream.trigger", known, self.trigger, "availableNow or an interval such as 30 seconds", CHOICES["stream.trigger"])
        known = self.start in CHOICES["stream.start"] if isinstance(self.start, str) else self.start >= 0
        yield problem("stream.start", known, self.start, _START, CHOICES["stream.start"])
        yield problem("stream.max_files", is_count(self.max_files), self.max_files, "a positive integer")


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """What `metaeol estimate` cannot measure. Nothing in here changes a run."""

    price_per_hour: float | None = None  # of one executor, in any currency

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        price = self.price_per_hour
        yield problem("estimate.price_per_hour", price is None or price >= 0, price, "a number from 0")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Labelled data that `metaeol evaluate` scores vectors on. Nothing in here changes a vector."""

    data: str | None = None  # a folder with sts/, transfer/ or retrieval/ in it; must be given to evaluate
    tasks: tuple[str, ...] | None = None  # names of the files to use; null: all of them
    limit: Annotated[int | None, _NULL_OR_COUNT] = None  # rows of each task, drawn at random; null: all of them
    seed: int = 0  # of that draw, of folds and of the bootstrap
    resamples: int = 1_000  # of the bootstrap; 0 gives no intervals
    inner_folds: int = 3  # that choose a classifier's regularisation; SentEval's protocol has 10, at three times the time

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        yield problem("evaluation.limit", self.limit is None or is_count(self.limit), self.limit, _NULL_OR_COUNT)
        yield problem("evaluation.seed", self.seed >= 0, self.seed, "an integer from 0")
        yield problem("evaluation.resamples", self.resamples >= 0, self.resamples, "an integer from 0")
        yield problem("evaluation.inner_folds", self.inner_folds >= 2, self.inner_folds, "an integer from 2")


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """What the vectors of another spec must keep to replace those in the table. Nothing in here changes a vector."""

    gate: bool = False  # true: compare them before a migration is published, and stop it where they are worse than allowed here
    sample: int = 2_000  # distinct texts that are compared, the same ones in every run
    neighbours: int = 10  # of each text; fewer where the sample is small: at most a tenth of it
    min_agreement: float = 0.2  # mean share of nearest neighbours that old and new vectors have in common; 0 never stops
    max_anisotropy_rise: float = 0.1  # of the mean cosine of two texts, new minus old; 2 never stops
    min_rank_share: float = 0.5  # effective rank, new over old; 0 stops only where all vectors are the same
    pairs: str | None = None  # a TSV of labelled pairs: for the key id, columns id1, id2 and score
    pairs_figure: str = "spearman"  # of likeness; or ndcg: nDCG@10, whether text 1 finds texts 2 with a score over 0
    max_score_drop: float = 1.0  # of that figure x100, old minus new

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[Problem | None]:
        yield problem("quality.sample", 50 <= self.sample <= 20_000, self.sample, "an integer from 50 to 20000")
        known, choices = self.pairs_figure in CHOICES["quality.pairs_figure"], CHOICES["quality.pairs_figure"]
        yield problem("quality.pairs_figure", known, self.pairs_figure, " or ".join(choices), choices)
        yield problem("quality.neighbours", is_count(self.neighbours), self.neighbours, "a positive integer")
        for name, most in (("min_agreement", 1), ("max_anisotropy_rise", 2), ("min_rank_share", 1), ("max_score_drop", 200)):
            yield problem(f"quality.{name}", 0 <= getattr(self, name) <= most, getattr(self, name), f"a number from 0 to {most}")


@dataclass(frozen=True, kw_only=True)
class SparkConfig:
    """The Spark session, where none is running already."""

    master: str | None = None  # null: what spark-submit or the notebook set, else local[*]
    conf: Annotated[Mapping[str, str], "a mapping of Spark settings"] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What a command needs that has a model but no table of its own."""

    column: str  # the vector's column; its error and fingerprint stand beside it
    embedding: EmbeddingSpec
    runtime: RuntimeConfig
    spark: SparkConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(frozen=True, kw_only=True)
class JobConfig(EncoderConfig):
    """All of a job's settings."""

    source: SourceConfig
    target: TargetConfig
    stream: StreamConfig = field(default_factory=StreamConfig)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)

    def __post_init__(self) -> None:
        if self.target.table is None and self.source.makes_key:
            raise ConfigError(
                "target.table is missing: a key that is made (source.key: auto) stands in a table of its own, beside the vectors"
            )
        if self.target.table is None and self.source.table is None:
            raise ConfigError(
                f"target.table is missing: vectors of {self.source.place} go into a Delta table of their own; only a source.table can hold "
                "its vectors itself"
            )
        if self.embedding.makes_passages:
            self._check_passages()

    def _check_passages(self) -> None:
        """Refuse what does not go with a table of passages."""
        if self.target.table is None:
            raise ConfigError(
                "target.table is missing: embedding.long_texts=passages makes several rows of a long text, which stand in a table of their "
                "own"
            )
        taken = [name for name in self.source.key if name.casefold() in PASSAGE_KEY]
        if taken:
            raise ConfigError(
                f"source.key: {taken[0]!r} is a column of a table of passages ({', '.join(PASSAGE_KEY)}): give the key's column another "
                "name, in a source.query or in the source"
            )
        if self.quality.pairs is not None:
            raise ConfigError(
                "quality.pairs names rows by source.key, which the passages of a text share: leave it out where embedding.long_texts is "
                "passages"
            )

    @property
    def makes_passages(self) -> bool:
        """Whether each row of the target is a passage of a text."""
        return self.embedding.makes_passages

    def of_rows(self) -> JobConfig:
        """Return the settings as the target's rows see them: where these are passages, a row has a longer key, and its text is short."""
        if not self.makes_passages:
            return self
        source = dataclasses.replace(
            self.source, key=(*self.source.key, *PASSAGE_KEY), key_columns=None, text=PASSAGE_TEXT, format_text=None, where=None
        )
        return dataclasses.replace(self, source=source, embedding=self.embedding.of_one_passage())

    @property
    def target_table(self) -> str:
        """The table that vectors are written to."""
        return self.target.table or self.source.table or ""

    @property
    def title(self) -> str:
        """What a job's figures are about: the table and the column of the vectors."""
        return f"{self.target_table}: column {self.column}"


def title_of(configs: Sequence[JobConfig]) -> str:
    """Say what the figures of a run over several columns of one table are about; see `JobConfig.title`."""
    if len(configs) == 1:
        return configs[0].title
    return f"{configs[0].target_table}: columns {', '.join(config.column for config in configs)}"
