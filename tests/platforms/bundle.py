"""Reads the Databricks asset bundle as the Databricks command line would: includes joined, variables of one target filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
_REFERENCE = re.compile(r"\$\{([^}]+)\}")


def joined() -> dict[str, Any]:
    """`databricks.yml` with the resources of its included files."""
    bundle: dict[str, Any] = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))
    for pattern in bundle["include"]:
        for path in sorted(ROOT.glob(pattern)):
            for section, resources in yaml.safe_load(path.read_text(encoding="utf-8"))["resources"].items():
                bundle.setdefault("resources", {}).setdefault(section, {}).update(resources)
    return bundle


def references() -> set[str]:
    """Everything that stands between `${` and `}` in the bundle."""
    return set(_REFERENCE.findall(yaml.safe_dump(joined())))


def variables(target: str) -> dict[str, Any]:
    """Values of the variables in a target."""
    bundle = joined()
    defaults = {name: settings["default"] for name, settings in bundle["variables"].items()}
    return {**defaults, **bundle["targets"][target].get("variables", {})}


def resolved(target: str) -> dict[str, Any]:
    """The bundle with references filled in; workspace files are those of this checkout."""
    names = {f"var.{name}": value for name, value in variables(target).items()}
    names |= {"bundle.name": joined()["bundle"]["name"], "bundle.target": target, "workspace.file_path": str(ROOT)}
    filled: dict[str, Any] = _fill(joined(), names)
    return filled


def _fill(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, names) for item in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole:  # a number stays a number
        return names[whole.group(1)]
    return _REFERENCE.sub(lambda found: str(names[found.group(1)]), value)
