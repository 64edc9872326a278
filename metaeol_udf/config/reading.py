"""A job's configuration: one YAML file, `key=value` overrides, the same keys on every surface.

Checks are arithmetic only: no file, network or device is touched beyond reading the YAML itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_type_hints

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
from metaeol_udf.config.source import MADE_KEY, PLACES, SourceConfig, check_one_place
from metaeol_udf.errors import ConfigError, did_you_mean
from metaeol_udf.files import parse_yaml, read_text, texts_as_written
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import check, fits, read_path, read_setting
from metaeol_udf.spec import SETTINGS, EmbeddingSpec

_SECTIONS: dict[str, Any] = {
    "source": SourceConfig,
    "target": TargetConfig,
    "runtime": RuntimeConfig,
    "stream": StreamConfig,
    "estimate": EstimateConfig,
    "evaluation": EvaluationConfig,
    "quality": QualityConfig,
    "spark": SparkConfig,
}

Config = TypeVar("Config", bound=EncoderConfig)


#: What functions that take a configuration are given: one that was read, nested mappings, or the path of a file.
GivenConfig: TypeAlias = JobConfig | Mapping[str, Any] | str | Path


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> JobConfig:
    """Read a job's YAML file and apply `section.key=value` overrides, whose values are read as YAML.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or missing, or a value is out of range.
    """
    return parse_config(read_blocks(path, overrides))


def as_config(given: GivenConfig) -> JobConfig:
    """Return a configuration as it is, read one from a file, or build one from nested mappings.

    Raises:
        ConfigError: It is none of these, or as `load_config` and `parse_config`.
    """
    if isinstance(given, JobConfig):
        return given
    if isinstance(given, (str, Path)):
        return load_config(given)
    if isinstance(given, Mapping):
        return parse_config(given)
    raise ConfigError(f"a configuration must be a JobConfig, a mapping of sections or the path of a file, found {type(given).__name__}")


def load_encoder_config(path: str | Path, overrides: Iterable[str] = ()) -> EncoderConfig:
    """`load_config` for commands that need a model but no table: a job's own file, one without a source, or a bare spec file."""
    return parse_encoder_config(read_blocks(path, overrides))


def read_blocks(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read the sections of a YAML file, which `parse_config` takes, and apply overrides.

    Raises:
        ConfigError: The file cannot be read, or is no mapping.
    """
    text = read_text(path, "the configuration")
    blocks = parse_yaml(text, f"cannot read the configuration {path}")
    if not isinstance(blocks, dict):
        raise ConfigError(f"the configuration {path} must be a mapping of sections, found {type(blocks).__name__}")
    if "model" in blocks and "embedding" not in blocks:  # a spec file, whose other files stand beside it
        blocks = {"embedding": {"spec": str(path)}}
    for section, key in _MAPPINGS:
        block = blocks.get(section)
        if isinstance(block, dict) and isinstance(block.get(key), dict):
            block[key] |= texts_as_written(text, section, key)
    for override in overrides:
        _apply(blocks, override)
    return blocks


def read_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Nested mappings of `section.key=value` alone, without a file.

    Raises:
        ConfigError: One has another form.
    """
    blocks: dict[str, Any] = {}
    for override in overrides:
        _apply(blocks, override)
    return blocks


def parse_config(blocks: Mapping[str, Any]) -> JobConfig:
    """Build a configuration from nested mappings, as YAML gives them.

    Raises:
        ConfigError: A key is unknown or missing, or a value is out of range.
    """
    return _build(JobConfig, blocks)


def parse_encoder_config(blocks: Mapping[str, Any]) -> EncoderConfig:
    """`parse_config` where the source may be missing; with one, all of a job's settings are checked."""
    return _build(EncoderConfig if blocks.get("source") is None else JobConfig, blocks)


def _build(kind: type[Config], blocks: Mapping[str, Any]) -> Config:
    """Build a configuration with those sections that its kind has; sections of a job alone are passed over in another kind."""
    sections = ("embedding", *_SECTIONS)
    for name in blocks:
        if name not in sections:
            raise ConfigError(f"unknown section {shorten(str(name), 80)!r}; {did_you_mean(str(name), sections)}")
    embedding = blocks.get("embedding")
    spec = EmbeddingSpec.from_mapping(embedding if embedding is not None else {})
    column = (embedding or {}).get("column", "embedding")
    check("embedding.column", isinstance(column, str) and bool(column), column, "a column name")
    names = [each.name for each in dataclasses.fields(kind) if each.name in _SECTIONS]
    return kind(column=column, embedding=spec, **{name: _section(_SECTIONS[name], name, blocks.get(name)) for name in names})


#: Settings that are mappings of texts, whose keys may have dots.
_MAPPINGS = (("spark", "conf"), ("source", "options"))


def setting_names() -> list[str]:
    """Every `section.key` that a configuration may hold, in the order of the documentation."""
    names = {section: [field.name for field in dataclasses.fields(kind)] for section, kind in _SECTIONS.items()}
    blocks = {"source": names.pop("source"), "target": names.pop("target"), "embedding": ["column", "spec", *SETTINGS], **names}
    return [f"{section}.{key}" for section, keys in blocks.items() for key in keys]


def switches() -> list[str]:
    """Settings that are true or false."""
    kinds = {**_SECTIONS, "embedding": EmbeddingSpec}
    return [f"{section}.{key}" for section, kind in kinds.items() for key, hint in get_type_hints(kind).items() if hint is bool]


def _section(kind: Any, name: str, block: Any) -> Any:
    """Build one section; a key that is written as null takes its default."""
    block = {} if block is None else block
    if not isinstance(block, Mapping):
        raise ConfigError(f"{name} must be a mapping of settings, found {type(block).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in block:
        if key not in fields:
            raise ConfigError(f"unknown key {name}.{shorten(str(key), 80)}; {did_you_mean(str(key), fields)}")
    if kind is SourceConfig:  # the first thing that somebody misses
        if all(block.get(name) is None for name in PLACES):
            check_one_place(())
        if block.get("key") == "auto":
            block = {**block, "key": [MADE_KEY]}
    for key, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and block.get(key) is None:
            raise ConfigError(f"{name}.{key} is missing")
    hints = get_type_hints(kind, include_extras=True)
    given = {key: (f"{name}.{key}", value) for key, value in block.items() if value is not None}
    values = {key: read_setting(setting, value, hints[key], CHOICES.get(setting, ())) for key, (setting, value) in given.items()}
    for key, (setting, _) in given.items():
        if setting in PATHS and isinstance(values[key], str):
            values[key] = read_path(setting, values[key])
    return kind(**values)


def _apply(blocks: dict[str, Any], override: str) -> None:
    """Set `section.key` in nested mappings; below `spark.conf` and `source.options` the rest of the name is one key, dots and all."""
    name, equals, text = override.partition("=")
    if not equals or "." not in name:
        known = setting_names()
        ends = [each for each in known if each.partition(".")[2] == name] if equals else []
        hint = (
            f"did you mean '{ends[0]}={shorten(text, 200)}'?"
            if len(ends) == 1
            else did_you_mean(name, known)
            if equals
            else "such as runtime.device=cpu"
        )
        raise ConfigError(f"override {shorten(name, 200)!r} must have the form section.key=value; {hint}")  # a value may be a secret
    section, _, key = name.partition(".")
    block = _mapping_in(blocks, section, section)
    outer, dot, inner = key.partition(".")
    if dot and (section, outer) in _MAPPINGS:
        _mapping_in(block, outer, f"{section}.{outer}")[inner] = text
    else:
        block[key] = _override_value(section, key, text)


def _mapping_in(blocks: dict[str, Any], name: str, setting: str) -> dict[str, Any]:
    """Find a mapping of settings to put an override into; makes it where it is missing."""
    block = blocks.get(name)
    if block is None:
        block = blocks[name] = {}
    if not isinstance(block, dict):
        raise ConfigError(f"{setting} must be a mapping of settings, found {type(block).__name__}")
    return block


def _override_value(section: str, key: str, text: str) -> Any:
    """Read an override's value: YAML, but for settings that are text, which is taken as it stands unless YAML quotes all of it."""
    hint = get_type_hints(EmbeddingSpec if section == "embedding" else _SECTIONS.get(section, EmbeddingSpec)).get(key, str)
    is_list = fits(["a"], hint) and text.startswith("[")
    if fits("text", hint) and not (is_list or fits(1, hint) or fits(True, hint)) and text not in ("", "null", "~"):
        is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        read = None
        if is_quoted:
            with contextlib.suppress(ConfigError):
                read = parse_yaml(text, "")
        return read if isinstance(read, str) else text
    return parse_yaml(text, f"the value of override '{section}.{key}' is not YAML")
