"""A job's configuration: one YAML file, `key=value` overrides, the same keys on every surface.

Checks are arithmetic only: no file, network or device is touched beyond reading the YAML itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_type_hints

from metaeol_udf.config.columns import ENTRIES, override_entries, parse_entries, the_one
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
from metaeol_udf.config.source import MADE_KEY, PLACES, SourceConfig, format_of, place_problem
from metaeol_udf.config.suggestions import suggest_setting
from metaeol_udf.errors import ConfigError, Problem, SettingsError, did_you_mean
from metaeol_udf.files import is_folder, parse_yaml, places_of, read_text, texts_as_written
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import check, fits, read_path, read_setting, refuse
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
Parsed = TypeVar("Parsed")


#: What functions that take a configuration are given: what was read, nested mappings, or the path of a file.
GivenConfig: TypeAlias = JobConfig | tuple[JobConfig, ...] | Mapping[str, Any] | str | Path
#: What functions that need no table are given: also a spec, as an object, a mapping or a file.
GivenEncoderConfig: TypeAlias = EncoderConfig | EmbeddingSpec | Mapping[str, Any] | str | Path


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> JobConfig:
    """Read a job's YAML file and apply `section.key=value` overrides, whose values are read as YAML.

    Raises:
        ConfigError: The file cannot be read, a key is unknown or missing, or a value is out of range.
    """
    return _only(load_configs(path, overrides))


def load_configs(path: str | Path, overrides: Iterable[str] = ()) -> tuple[JobConfig, ...]:
    """`load_config` for commands that take several columns: one configuration for each entry of `embeddings`."""
    return _load(path, overrides, parse_configs)


def as_config(given: GivenConfig) -> JobConfig:
    """Return a configuration as it is, read one from a file, or build one from nested mappings.

    Raises:
        ConfigError: It is none of these, or as `load_config` and `parse_config`.
    """
    return _only(as_configs(given))


def as_configs(given: GivenConfig) -> tuple[JobConfig, ...]:
    """`as_config` for what takes several columns: one configuration for each entry of `embeddings`."""
    if isinstance(given, JobConfig):
        return (given,)
    if isinstance(given, tuple):
        return given
    if isinstance(given, (str, Path)):
        return load_configs(given)
    if isinstance(given, Mapping):
        return parse_configs(given)
    raise ConfigError(f"a configuration must be a JobConfig, a mapping of sections or the path of a file, found {type(given).__name__}")


def load_encoder_config(path: str | Path, overrides: Iterable[str] = ()) -> EncoderConfig:
    """`load_config` for commands that need a model but no table: a job's own file, one without a source, or a bare spec file."""
    return _only(_load(path, overrides, lambda blocks: parse_entries(blocks, _parse_encoder_config, _keys())))


def as_encoder_config(given: GivenEncoderConfig) -> EncoderConfig:
    """`as_config` for functions that need a model but no table: the source may be missing, and a spec alone will do.

    Raises:
        ConfigError: As `as_config`.
    """
    if isinstance(given, EncoderConfig):
        return given
    if isinstance(given, EmbeddingSpec):
        return dataclasses.replace(parse_encoder_config({"embedding": {"model": given.model}}), embedding=given)
    if isinstance(given, (str, Path)):
        return load_encoder_config(given)
    if isinstance(given, Mapping):
        return parse_encoder_config({"embedding": dict(given)} if _is_spec(given) else given)
    kind = type(given).__name__
    raise ConfigError(f"a configuration must be an EmbeddingSpec, a mapping of settings or sections, or the path of a file, found {kind}")


def _only(found: Sequence[Config]) -> Config:
    return the_one(found, [config.column for config in found])


def _load(path: str | Path, overrides: Iterable[str], parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed:
    """Read a configuration and parse it; what is wrong in the file is said with its line and column."""
    overrides = list(overrides)
    blocks = read_blocks(path, overrides)
    try:
        return parse(blocks)
    except SettingsError as error:
        text = read_text(path, "the configuration")
        places, given = places_of(text), {override.partition("=")[0] for override in overrides}
        last = (len(text), 0)
        problems = sorted(error.problems, key=lambda problem: _place(problem, places) or last)
        raise SettingsError([_located(problem, str(path), _place(problem, places), given) for problem in problems]) from None


def read_blocks(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read the sections of a YAML file, which `parse_config` takes, and apply overrides.

    Raises:
        ConfigError: The file cannot be read, or is no mapping.
    """
    if is_folder(Path(path)):
        named = path if "/" in str(path) else f"./{path}"  # a name without a / is that of a table in a catalog
        raise ConfigError(f"{path} is a folder, not a configuration; `metaeol init {named}` drafts one for a table")
    kind = format_of(str(path))
    if kind not in (None, "json"):  # JSON is YAML, too
        raise ConfigError(f"{path} is a file of {kind}, not a configuration; `metaeol init {path}` drafts one for it")
    text = read_text(path, "the configuration")
    blocks = parse_yaml(text, f"cannot read the configuration {path}")
    if blocks is None:
        raise ConfigError(f"the configuration {path} is empty; `metaeol init TABLE` drafts one")
    if not isinstance(blocks, dict):
        raise ConfigError(f"the configuration {path} must be a mapping of sections, found {type(blocks).__name__}")
    if _is_spec(blocks):  # its other files stand beside it
        blocks = {"embedding": {"spec": str(path)}}
    for section, key in _MAPPINGS:
        block = blocks.get(section)
        if isinstance(block, dict) and isinstance(block.get(key), dict):
            block[key] |= texts_as_written(text, section, key)
    shared = blocks.get("embedding")
    if ENTRIES in blocks and isinstance(shared, dict) and "column" in shared:
        said = f"embedding.column stands in each entry of {ENTRIES}, as column: leave it out of embedding"
        raise SettingsError([_located(Problem("embedding.column", said), str(path), places_of(text).get(("embedding", "column")), ())])
    for override in overrides:
        _apply(blocks, override)
    return blocks


def _is_spec(blocks: Mapping[Any, Any]) -> bool:
    """Tell whether a file is a spec of its own, and no configuration whose sections were left out."""
    if "model" not in blocks or "embedding" in blocks:
        return False
    others = [key for key in blocks if key not in SETTINGS]
    return not any(key in keys for key in others for keys in [_SECTIONS, *_keys().values()])


def _place(problem: Problem, places: Mapping[tuple[str, ...], tuple[int, int]]) -> tuple[int, int] | None:
    """Find the line and column of a setting, else of its section; None where neither stands in the file."""
    section, _, key = problem.setting.partition(".")
    if section == ENTRIES:
        names = tuple(problem.setting.split(".", 2))
        return next((places[names[:n]] for n in range(len(names), 0, -1) if names[:n] in places), None)
    return places.get((section, key)) or places.get((section,))


def _located(problem: Problem, path: str, place: tuple[int, int] | None, given: Collection[str]) -> Problem:
    """Put the place in the file before a sentence; a setting of the command line has none."""
    if problem.setting in given:
        return problem
    return dataclasses.replace(problem, said=f"{path}:{place[0]}:{place[1]}: {problem.said}" if place else f"{path}: {problem.said}")


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
    return _only(parse_configs(blocks))


def parse_configs(blocks: Mapping[str, Any]) -> tuple[JobConfig, ...]:
    """`parse_config` for what takes several columns: one configuration for each entry of `embeddings`."""

    def parse(sections: Mapping[str, Any]) -> JobConfig:
        config = _build(JobConfig, sections)
        if len(blocks.get(ENTRIES) or ()) > 1 and config.makes_passages:
            raise ConfigError(f"embedding.long_texts=passages needs a target.table for one column alone, and {ENTRIES} has several")
        return config

    return parse_entries(blocks, parse, _keys())


def parse_encoder_config(blocks: Mapping[str, Any]) -> EncoderConfig:
    """`parse_config` where the source may be missing; with one, all of a job's settings are checked."""
    return _only(parse_entries(blocks, _parse_encoder_config, _keys()))


def _parse_encoder_config(blocks: Mapping[str, Any]) -> EncoderConfig:
    return _build(EncoderConfig if blocks.get("source") is None else JobConfig, blocks)


def _build(kind: type[Config], blocks: Mapping[str, Any]) -> Config:
    """Build a configuration with those sections that its kind has; sections of a job alone are passed over in another kind."""
    problems: list[Problem] = []
    sections = ("embedding", ENTRIES, *_SECTIONS)
    for name in blocks:
        if name not in sections:
            shown = shorten(str(name), 80)
            problems.append(Problem(shown, f"unknown section {shown!r}; {_suggest_section(shown, sections)}"))
    spec = column = None
    with _gathered(problems):
        column, spec = _embedding(blocks.get("embedding"))
    names = [each.name for each in dataclasses.fields(kind) if each.name in _SECTIONS]
    found: dict[str, Any] = {}
    for name in names:
        with _gathered(problems):
            found[name] = _section(_SECTIONS[name], name, blocks.get(name))
    misplaced = {each.setting.rpartition(".")[2] for each in problems if not each.is_missing}
    refuse(each for each in problems if not (each.is_missing and each.setting.partition(".")[2] in misplaced))
    return kind(column=column, embedding=spec, **found)


@contextmanager
def _gathered(problems: list[Problem]) -> Iterator[None]:
    """Add to `problems` what is wrong with the settings of one section, so that the next one is read too."""
    try:
        yield
    except SettingsError as error:
        problems += error.problems


def _suggest_section(name: str, sections: Sequence[str]) -> str:
    """Return the end of a message about a section that is not known: it may be a setting without its section."""
    if difflib.get_close_matches(name, sections, n=1, cutoff=0.75):
        return did_you_mean(name, sections)
    said = suggest_setting("", name, _keys())
    return did_you_mean(name, sections) if said.startswith("known") else said


def _embedding(block: Any) -> tuple[str, EmbeddingSpec]:
    """Read the section `embedding`: the name of the vector's column, and what an embedding is."""
    block = {} if block is None else block
    if not isinstance(block, Mapping):
        return "", EmbeddingSpec.from_mapping(block)  # refuses it
    known = _keys()["embedding"]
    problems = [_unknown("embedding", key) for key in block if key not in known]
    column = block.get("column", "embedding")
    with _gathered(problems):
        check("embedding.column", isinstance(column, str) and bool(column), column, "a column name")
    with _gathered(problems):
        spec = EmbeddingSpec.from_mapping({key: value for key, value in block.items() if key in known})
    refuse(problems)
    return column, spec


def _unknown(section: str, key: object) -> Problem:
    shown = shorten(str(key), 80)
    return Problem(f"{section}.{shown}", f"unknown key {section}.{shown}; {suggest_setting(section, shown, _keys())}")


@functools.cache
def _keys() -> dict[str, list[str]]:
    """List the keys of each section, in the order of the documentation."""
    names = {section: [field.name for field in dataclasses.fields(kind)] for section, kind in _SECTIONS.items()}
    return {"source": names.pop("source"), "target": names.pop("target"), "embedding": ["column", "spec", *SETTINGS], **names}


#: Settings that are mappings of texts, whose keys may have dots.
_MAPPINGS = (("spark", "conf"), ("source", "options"))
#: Settings that are mappings of settings.
_INNER = (("embedding", "passage"),)


def setting_names() -> list[str]:
    """Every `section.key` that a configuration may hold, in the order of the documentation."""
    return [f"{section}.{key}" for section, keys in _keys().items() for key in keys]


def switches() -> list[str]:
    """Settings that are true or false."""
    kinds = {**_SECTIONS, "embedding": EmbeddingSpec}
    return [f"{section}.{key}" for section, kind in kinds.items() for key, hint in get_type_hints(kind).items() if hint is bool]


def _section(kind: Any, name: str, block: Any) -> Any:
    """Build one section; a key that is written as null takes its default."""
    block = {} if block is None else block
    if not isinstance(block, Mapping):
        refuse([Problem(name, f"{name} must be a mapping of settings, found {type(block).__name__}")])
    fields = {f.name: f for f in dataclasses.fields(kind)}
    problems = [_unknown(name, key) for key in block if key not in fields]
    if kind is SourceConfig:
        if all(block.get(place) is None for place in PLACES):
            with _gathered(problems):
                refuse([place_problem(())])
        if block.get("key") == "auto":
            block = {**block, "key": [MADE_KEY]}
    for key, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and block.get(key) is None:
            problems.append(Problem(f"{name}.{key}", f"{name}.{key} is missing", is_missing=True))
    hints = get_type_hints(kind, include_extras=True)
    values = {}
    for key, value in block.items():
        setting = f"{name}.{key}"
        if value is None or key not in fields:
            continue
        with _gathered(problems):
            values[key] = read_setting(setting, value, hints[key], CHOICES.get(setting, ()))
            if setting in PATHS and isinstance(values[key], str):
                values[key] = read_path(setting, values[key])
    refuse(problems)
    return kind(**values)


def _apply(blocks: dict[str, Any], override: str) -> None:
    """Set `section.key` in nested mappings; below `spark.conf` and `source.options` the rest of the name is one key, dots and all."""
    name, equals, text = override.partition("=")
    if not equals or "." not in name:
        known = setting_names()
        ends = [each for each in known if each.partition(".")[2] == name] if equals else []
        hint = "such as runtime.device=cpu; a query of several words stands in quotes"
        if len(ends) == 1:
            hint = f"did you mean '{ends[0]}={shorten(text, 200)}'?"
        elif equals:
            said = suggest_setting("", name, _keys())
            hint = "`metaeol config CONF` lists all settings" if said.startswith("known") else said
        raise ConfigError(f"override {shorten(name, 200)!r} must have the form section.key=value; {hint}")  # a value may be a secret
    section, _, key = name.partition(".")
    block = _mapping_in(blocks, section, section)
    outer, dot, inner = key.partition(".")
    if dot and (section, outer) in (*_MAPPINGS, *_INNER):
        value = text if (section, outer) in _MAPPINGS else parse_yaml(text, f"the value of override '{section}.{key}' is not YAML")
        _mapping_in(block, outer, f"{section}.{outer}")[inner] = value
    else:
        outer, inner, value = key, "", _override_value(section, key, text)
        block[key] = value
    if section == "embedding":
        override_entries(blocks, outer, value, inner)


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
