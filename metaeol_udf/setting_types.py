"""Checks a setting's value: against a rule, and against the type hint of the dataclass field that will hold it."""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from metaeol_udf.errors import Problem, SettingsError, nearest_word
from metaeol_udf.formatting import shorten

_SECRET = ("spark.conf", "source.options", "target.fingerprint_key")  # whose values may be secrets
#: A user and a secret in front of a host, as in `s3a://key:secret@bucket`; of `hdfs://host:8020/a@b` nothing.
SECRET_IN_PATH = re.compile(r"(?:(?<=[^/]//)|(?<=^//))[^/@:\s]*:(?!\d+/)[^@\s]*(?=@)")
_WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def problem(name: str, holds: bool, found: object, rule: str, words: Iterable[str] = ()) -> Problem | None:
    """Say what is wrong where a rule does not hold for a setting: «`name` must be `rule`, found `found`»; None where it holds.

    The sentence ends with the nearest of the `words` that the setting may take, if a word is near.
    """
    if holds:
        return None
    # What is long would hide the message.
    said = type(found).__name__ if name.startswith(_SECRET) else reprlib.repr(found)
    return Problem(name, f"{shorten(name, 200)} must be {rule}, found {said}{nearest_word(found, words)}")


def refuse(problems: Iterable[Problem | None]) -> None:
    """Raise `SettingsError` with all problems that there are."""
    found = [each for each in problems if each is not None]
    if found:
        raise SettingsError(found)


def check(name: str, holds: bool, found: object, rule: str, words: Iterable[str] = ()) -> None:
    """Raise `SettingsError` unless a rule holds for a setting, with the sentence of `problem`."""
    refuse([problem(name, holds, found, rule, words)])


def secret_problem(name: str, path: object) -> Problem | None:
    """Say that a path carries a user and a secret, where it does: logs, reports and properties of tables would show them."""
    if not isinstance(path, str) or SECRET_IN_PATH.search(path) is None:
        return None
    said = "a path must not carry a user and a secret, which logs would show: set them in spark.conf instead"
    return Problem(name, f"{name}: {said}")


def read_path(name: str, value: str) -> str:
    """Read a setting that may be a path: `~` is the home folder of the user who runs the command.

    Raises:
        SettingsError: It holds `${...}`, which is put in place nowhere in a configuration, a secret, or a character that no path can
            hold.
    """
    refuse([secret_problem(name, value)])
    if "${" in value:
        way_out = f"write the path, or override {name} on the command line"
        refuse([Problem(name, f"{name} holds ${{...}}, but a configuration takes no variables: {way_out}")])
    check_path(name, value)
    return os.path.expanduser(value) if value.startswith("~") else value


def check_path(name: str, value: str) -> None:
    """Check that the file system takes the characters of a path.

    Raises:
        ConfigError: It holds NUL or half a character.
    """
    try:
        is_path = b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        is_path = False
    check(name, is_path, value, "a path without NUL and half characters")


def is_count(value: object) -> bool:
    """Tell whether a value is a count: an integer from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def read_setting(name: str, value: Any, hint: Any, words: Iterable[str] = ()) -> Any:
    """Read a setting's value as YAML gives it, and bring it into the form of its field.

    Args:
        name: Section and key of the setting.
        value: The value; a single string may stand for a list of names.
        hint: Type hint of the field, out of `bool`, `int`, `float` (which takes integers), `str` (never empty), `None`,
            `tuple[T, ...]` (never empty), `Mapping[str, str]` (whose values become text, but for null), a dataclass
            (a mapping of its fields) and unions of these. `Annotated[hint, "a number from 0"]` names the rule that a message quotes.
        words: As for `check`.

    Raises:
        ConfigError: The value has another type.
    """
    kinds = _members(hint)
    is_single = isinstance(value, str) and str not in kinds and any(get_origin(kind) is tuple for kind in kinds)
    read = [value] if is_single else value
    check(name, fits(read, hint), value, describe(hint), words)
    if isinstance(read, list):
        return tuple(read)
    if isinstance(read, Mapping):
        return {str(key): _as_text(f"{name}.{key}", item) for key, item in read.items() if item is not None}
    return read


def fits(value: object, hint: Any) -> bool:
    """Tell whether a value fits a hint, as `read_setting` lists them.

    Raises:
        TypeError: The hint is none of these.
    """
    kinds = _members(hint)
    if len(kinds) > 1:
        return any(fits(value, kind) for kind in kinds)
    (kind,) = kinds
    if kind is types.NoneType:
        return value is None
    if kind in (bool, str):
        return isinstance(value, kind) and value != ""
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and bool(value) and all(fits(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is Mapping or dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    raise TypeError(f"no rule for settings of type {kind}")


def describe(hint: Any) -> str:
    """Describe what fits a hint, for the sentence «NAME must be»."""
    if get_origin(hint) is Annotated:
        return str(get_args(hint)[1])
    kinds = [kind for kind in _members(hint) if kind is not types.NoneType]
    return " or ".join("a list of names" if get_origin(kind) is tuple else _WORDS.get(kind, "a mapping of settings") for kind in kinds)


def schema_of(hint: Any, words: Iterable[str] = (), pattern: str | None = None) -> dict[str, Any]:
    """Describe in JSON Schema what `read_setting` takes for a hint.

    Args:
        hint: As for `read_setting`.
        words: All texts that the setting may take; where there is none, any text.
        pattern: A regular expression of other texts that it may take.
    """
    kinds = _members(hint)
    texts: list[dict[str, Any]] = [{"enum": list(words)}] if words else [{"type": "string", "minLength": 1}]
    texts += [{"type": "string", "pattern": pattern}] if pattern else []
    parts = [part for kind in kinds for part in (texts if kind is str else [_schema_of_kind(kind)])]
    if str not in kinds and any(get_origin(kind) is tuple for kind in kinds):
        parts += texts  # one name may stand for a list
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


_JSON_TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}


def _schema_of_kind(kind: Any) -> dict[str, Any]:
    if get_origin(kind) is tuple:
        return {"type": "array", "items": schema_of(get_args(kind)[0]), "minItems": 1}
    if get_origin(kind) is Mapping:
        return {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
    if dataclasses.is_dataclass(kind):
        settings = {name: schema_of(inner) for name, inner in get_type_hints(kind, include_extras=True).items()}
        return {"type": "object", "properties": settings, "additionalProperties": False, "minProperties": 1}
    return {"type": _JSON_TYPES[kind]}


def _members(hint: Any) -> tuple[Any, ...]:
    """List the types of a union, or the single type that a hint is."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _as_text(name: str, value: object) -> str:
    rule = "one text, number or true/false (a list with commas between, a nested name with dots)"
    check(name, isinstance(value, (str, int, float)), value, rule)
    # YAML and Spark write booleans in lower case.
    return str(value).lower() if isinstance(value, bool) else str(value)
