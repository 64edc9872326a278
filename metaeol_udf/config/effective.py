"""Which settings a command would use, and where each of them comes from. No Spark."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaeol_udf.config.columns import ENTRIES, OF_SOURCE, entry_of, sections_of
from metaeol_udf.config.reading import load_encoder_config, read_blocks, setting_names
from metaeol_udf.config.sections import EncoderConfig, JobConfig
from metaeol_udf.files import parse_yaml, places_of, read_text
from metaeol_udf.setting_types import SECRET_IN_PATH, read_path
from metaeol_udf.spec import SETTINGS, Passage

#: What stands in place of a value that may be a secret.
HIDDEN = "…"
_MAPPINGS = ("spark.conf", "source.options")  # whose values may be secrets


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        kind: `file`, `spec` (a file that `embedding.spec` names), `override` (a word of the command line) or `default`.
        file: The file, where it is one.
        line: The line of the key, from 1; None where the key does not stand there by its name, as with a merge key of YAML.
    """

    kind: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return self.kind
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class EffectiveSetting:
    """A setting as a command would use it.

    Attributes:
        name: `section.key`; of the settings of Spark, of the options of a reader and of passages, with their own name behind it.
        value: A plain value; `HIDDEN` where it may be a secret.
        origin: Where it comes from.
    """

    name: str
    value: Any
    origin: Origin

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        origin = self.origin
        return {"setting": self.name, "value": self.value, "from": origin.kind, "file": origin.file, "line": origin.line}


_DEFAULT = Origin("default")


def effective_settings(path: str | Path, overrides: Iterable[str] = ()) -> list[EffectiveSetting]:
    """List the settings that a command would use, in the order of the documentation; of a spec file, those that need no source.

    Raises:
        ConfigError: As `load_config`.
    """
    overrides = list(overrides)
    config, blocks = load_encoder_config(path, overrides), read_blocks(path, overrides)
    entry = entry_of(blocks, config.column)
    blocks = blocks if entry is None else sections_of(blocks, entry[1])
    origins = _Origins(str(path), blocks, overrides, entry)
    found = []
    for name in setting_names():
        section, _, key = name.partition(".")
        if section != "embedding" and not hasattr(config, section):
            continue
        value = _value(config, blocks, section, key)
        if name in _MAPPINGS and value:
            found += [EffectiveSetting(f"{name}.{inner}", HIDDEN, origins.of_inner(section, key, inner)) for inner in value]
        elif isinstance(value, Passage):
            parts = dataclasses.asdict(value).items()
            found += [EffectiveSetting(f"{name}.{inner}", part, origins.of_part(section, key, inner)) for inner, part in parts]
        else:
            found.append(EffectiveSetting(name, _shown(value), origins.of(section, key, value)))
    return found


def _value(config: EncoderConfig, blocks: Mapping[str, Any], section: str, key: str) -> Any:
    if section == "embedding" and key in ("column", "spec"):
        return config.column if key == "column" else blocks["embedding"].get("spec")
    if (section, key) == ("source", "key") and isinstance(config, JobConfig) and config.source.makes_key:
        return "auto"
    return getattr(getattr(config, section), key)


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return SECRET_IN_PATH.sub(HIDDEN, value)
    return [_shown(item) for item in value] if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value


class _Origins:
    """Where the settings of one configuration come from."""

    def __init__(
        self, path: str, blocks: Mapping[str, Any], overrides: Iterable[str], entry: tuple[int, Mapping[str, Any]] | None = None
    ) -> None:
        self._path, self._blocks, self._entry = path, blocks, entry
        self._given = {override.partition("=")[0] for override in overrides}
        self._places = places_of(read_text(path, "the configuration"))
        self._of_spec = _of_spec_files(blocks.get("embedding"))

    def of(self, section: str, key: str, value: Any) -> Origin:
        """Tell where a setting comes from."""
        block = self._blocks.get(section)
        if not isinstance(block, Mapping) or key not in block or (section != "embedding" and block[key] is None and value is not None):
            return self._of_spec.get(key, _DEFAULT) if section == "embedding" else _DEFAULT
        return self._written(section, key)

    def of_part(self, section: str, key: str, inner: str) -> Origin:
        """Tell where a setting comes from that stands in another one, which as a whole takes the place of a spec file's."""
        block = self._blocks.get(section)
        given = block.get(key) if isinstance(block, Mapping) else None
        if not isinstance(given, Mapping):
            return self._of_spec.get(key, _DEFAULT)
        return self.of_inner(section, key, inner) if inner in given else _DEFAULT

    def of_inner(self, section: str, key: str, inner: str) -> Origin:
        """Tell where one value of a mapping comes from."""
        return self._written(section, key, inner)

    def _written(self, *names: str) -> Origin:
        """Find the nearest place of a name that the file or the command line holds."""
        lengths = range(len(names), 1, -1)
        if self._entry is not None and names[1] in self._entry[1] and names[0] == ("source" if names[1] in OF_SOURCE else "embedding"):
            if names[:2] != ("embedding", "column") and ".".join(names[:2]) in self._given:
                return Origin("override")
            place = self._places.get((ENTRIES, str(self._entry[0]), names[1]))
            return Origin("file", self._path, None if place is None else place[0])
        if any(".".join(names[:n]) in self._given for n in lengths):
            return Origin("override")
        place = next((self._places[names[:n]] for n in (*lengths, 1) if names[:n] in self._places), None)
        return Origin("file", self._path, None if place is None else place[0])


def _of_spec_files(block: Any) -> dict[str, Origin]:
    """Find where the settings stand in the files that `spec` names, one after the other; the first that has a setting wins."""
    found: dict[str, Origin] = {}
    while isinstance(block, Mapping) and isinstance(block.get("spec"), str):
        path = read_path("embedding.spec", block["spec"])
        text = read_text(path, "the spec file")
        block, places = parse_yaml(text, f"cannot read the spec file {path}"), places_of(text)
        for key in block:
            if key in SETTINGS and key not in found:
                found[key] = Origin("spec", path, places[(key,)][0] if (key,) in places else None)
    return found
