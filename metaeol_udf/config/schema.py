"""A JSON schema of a job's configuration for editors, made of the type hints that the parser checks."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from metaeol_udf.config.columns import ENTRIES, ENTRY_KEYS, OF_SOURCE
from metaeol_udf.config.reading import setting_names
from metaeol_udf.config.sections import CHOICES, JobConfig
from metaeol_udf.setting_types import describe, schema_of
from metaeol_udf.spec import EmbeddingSpec, Passage

#: Texts that settings take beside their words.
_PATTERNS = {"runtime.device": "^cuda:[0-9]+$", "stream.trigger": "^[1-9][0-9]* (second|minute|hour)s?$"}
_OF_THE_BLOCK: dict[str, Any] = {"column": (str, "embedding"), "spec": (str | None, None)}  # keys that are no part of a spec
_REQUIRED: dict[str, dict[str, Any]] = {
    "source": {"required": ["key"], "anyOf": [{"required": [place]} for place in ("table", "path", "query")]},
    "embedding": {},
}
_HAS_MODEL = {"required": ["embedding"], "properties": {"embedding": {"anyOf": [{"required": ["model"]}, {"required": ["spec"]}]}}}


def job_schema() -> dict[str, Any]:
    """Make the JSON schema (draft 7) of a job's YAML file. It takes what the parser takes; rules on ranges are the parser's alone."""
    sections: dict[str, dict[str, Any]] = {}
    for name in setting_names():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = _setting(section, key)
    blocks = {name: _section(name, settings) for name, settings in sections.items()}
    blocks[ENTRIES] = _entries(sections)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A job of metaeol-udf",
        "type": "object",
        "properties": blocks,
        "additionalProperties": False,
        "anyOf": [_HAS_MODEL, {"required": [ENTRIES]}],
    }


def _entries(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Make the schema of the list of columns."""
    settings = {key: sections["source" if key in OF_SOURCE else "embedding"][key] for key in ENTRY_KEYS}
    entry = {"type": "object", "properties": settings, "additionalProperties": False, "required": ["text", "column"]}
    return {"description": f"see {ENTRIES} in the reference of settings", "type": "array", "minItems": 1, "items": entry}


def _section(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    kind = "object" if name in _REQUIRED else ["object", "null"]  # a section without a setting is null in YAML
    return {"type": kind, "properties": settings, "additionalProperties": False, **_REQUIRED.get(name, {})}


def _setting(section: str, key: str) -> dict[str, Any]:
    name = f"{section}.{key}"
    hint, default = _OF_THE_BLOCK[key] if section == "embedding" and key in _OF_THE_BLOCK else _hint_and_default(section, key)
    found = schema_of(hint, CHOICES.get(name, ()), _PATTERNS.get(name))
    is_required = default is dataclasses.MISSING
    if section != "embedding" and not is_required and {"type": "null"} not in found.get("anyOf", ()):
        found = {"anyOf": [*found.get("anyOf", [found]), {"type": "null"}]}  # the default, as in all sections but this one
    rule = f"{describe(hint)}, or null" if {"type": "null"} in found.get("anyOf", ()) and "null" not in describe(hint) else describe(hint)
    plain = dataclasses.asdict(default) if isinstance(default, Passage) else list(default) if isinstance(default, tuple) else default
    shown = {} if is_required else {"default": plain}
    return {"description": f"{rule}; see {name} in the reference of settings", **shown, **found}


def _hint_and_default(section: str, key: str) -> tuple[Any, Any]:
    """Find the type hint of a setting, and its default; `MISSING` where it has none."""
    kind = EmbeddingSpec if section == "embedding" else get_type_hints(JobConfig)[section]
    field = next(each for each in dataclasses.fields(kind) if each.name == key)
    default = field.default if field.default_factory is dataclasses.MISSING else dict(field.default_factory())
    return get_type_hints(kind, include_extras=True)[key], default
