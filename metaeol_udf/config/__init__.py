"""A job's configuration: its sections, and how it is read. No Spark, no torch."""

from metaeol_udf.config.effective import EffectiveSetting, effective_settings
from metaeol_udf.config.reading import (
    GivenConfig,
    as_config,
    load_config,
    load_encoder_config,
    parse_config,
    parse_encoder_config,
    read_blocks,
    read_overrides,
    setting_names,
    switches,
)
from metaeol_udf.config.schema import job_schema
from metaeol_udf.config.sections import (
    CHOICES,
    PATHS,
    EncoderConfig,
    EstimateConfig,
    EvaluationConfig,
    JobConfig,
    QualityConfig,
    RuntimeConfig,
    SparkConfig,
    StreamConfig,
    TargetConfig,
)
from metaeol_udf.config.source import FORMATS, SourceConfig

__all__ = [
    "CHOICES",
    "FORMATS",
    "PATHS",
    "EffectiveSetting",
    "EncoderConfig",
    "EstimateConfig",
    "EvaluationConfig",
    "GivenConfig",
    "JobConfig",
    "QualityConfig",
    "RuntimeConfig",
    "SourceConfig",
    "SparkConfig",
    "StreamConfig",
    "TargetConfig",
    "as_config",
    "effective_settings",
    "job_schema",
    "load_config",
    "load_encoder_config",
    "parse_config",
    "parse_encoder_config",
    "read_blocks",
    "read_overrides",
    "setting_names",
    "switches",
]
