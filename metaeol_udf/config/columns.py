"""Several vector columns in one file: the list `embeddings`, each entry of which stands for a configuration of its own.

An entry has the `text` and the `column`, and of `format_text` and the settings of `embedding` those that are its own. All else is the
file's. `embedding.column` beside the list, which the command line or Python gives, chooses one entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from metaeol_udf.config.suggestions import suggest_setting
from metaeol_udf.errors import ConfigError, Problem, SettingsError, did_you_mean
from metaeol_udf.formatting import shorten
from metaeol_udf.setting_types import problem, refuse
from metaeol_udf.spec import SETTINGS

#: The section.
ENTRIES = "embeddings"
#: Keys of an entry that are settings of the source.
OF_SOURCE = ("text", "format_text")
#: Keys of an entry, in the order of the documentation.
ENTRY_KEYS = (*OF_SOURCE, "column", "spec", *SETTINGS)
_BESIDE = ("_error", "_fingerprint")  # the columns that stand beside a vector's

Parsed = TypeVar("Parsed")


def parse_entries(
    blocks: Mapping[str, Any], parse: Callable[[Mapping[str, Any]], Parsed], known: Mapping[str, Sequence[str]]
) -> tuple[Parsed, ...]:
    """Parse the configuration of each column that is asked for: of all entries, or of the one that `embedding.column` names.

    Args:
        blocks: The sections of a file. Without the list, they are one configuration.
        parse: Parses the sections of one column.
        known: Keys of each section, for messages.

    Raises:
        ConfigError: An entry lacks `text` or `column`, has an unknown key or a wrong value, or two entries write the same column.
    """
    if ENTRIES not in blocks:
        return (parse(blocks),)
    entries = blocks[ENTRIES]
    refuse(_problems(blocks, entries, known))
    column = _chosen(blocks, [entry["column"] for entry in entries])
    found, problems = [], []
    for index, entry in enumerate(entries):
        try:
            parsed = parse(sections_of(blocks, entry))
        except SettingsError as error:
            problems += [_of_entry(each, index, entry) for each in error.problems]
        except ConfigError as error:
            problems.append(Problem(f"{ENTRIES}.{index}", f"entry {index + 1} of {ENTRIES}: {error}"))
        else:
            if column in (None, entry["column"]):
                found.append(parsed)
    refuse(dict.fromkeys(problems))
    return tuple(found)


def sections_of(blocks: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """Make the sections of one entry's column. An entry that names a `spec` takes nothing of `embedding`."""
    own = {key: value for key, value in entry.items() if key not in OF_SOURCE}
    shared = blocks.get("embedding")
    embedding = own if "spec" in entry or not isinstance(shared, Mapping) else {**shared, **own}
    sections = {**blocks, "embedding": embedding}
    del sections[ENTRIES]
    if isinstance(blocks.get("source"), Mapping):
        sections["source"] = {**blocks["source"], **{key: entry[key] for key in OF_SOURCE if key in entry}}
    return sections


def entry_of(blocks: Mapping[str, Any], column: str) -> tuple[int, Mapping[str, Any]] | None:
    """Find the entry of a column with its place in the list, from 0; None where there is no list."""
    return next(((index, entry) for index, entry in enumerate(blocks.get(ENTRIES) or ()) if entry.get("column") == column), None)


def override_entries(blocks: Mapping[str, Any], key: str, value: Any, inner: str = "") -> None:
    """Let a value that wins over the file's `embedding.key` win over those of the entries, too; `inner` names a part of it."""
    entries = blocks.get(ENTRIES)
    for entry in entries if isinstance(entries, list) and key != "column" else ():
        if not isinstance(entry, dict) or not (key in entry or "spec" in entry):
            continue
        if inner and isinstance(entry.get(key), dict):
            entry[key][inner] = value
        else:
            entry[key] = {inner: value} if inner else value


def the_one(found: Sequence[Parsed], columns: Sequence[str]) -> Parsed:
    """Return the configuration of the only column.

    Raises:
        ConfigError: There are several.
    """
    if len(found) > 1:
        raise ConfigError(
            f"{ENTRIES} has {len(found)} columns ({', '.join(columns)}), and this takes one: choose it with embedding.column=NAME"
        )
    return found[0]


def _problems(blocks: Mapping[str, Any], entries: Any, known: Mapping[str, Sequence[str]]) -> Iterator[Problem | None]:
    is_list = isinstance(entries, list) and bool(entries)
    yield problem(ENTRIES, is_list, entries, f"a list of mappings of {', '.join(ENTRY_KEYS[:3])} and settings of embedding")
    if not is_list:
        return
    yield from _shared_problems(blocks)
    taken: dict[str, int] = {}
    for index, entry in enumerate(entries):
        place, words = f"{ENTRIES}.{index}", f"entry {index + 1} of {ENTRIES}"
        if not isinstance(entry, Mapping):
            yield problem(place, False, entry, f"a mapping of {', '.join(ENTRY_KEYS[:3])} and settings of embedding")
            continue
        for key in entry:
            if key not in ENTRY_KEYS:
                shown = shorten(str(key), 80)
                said = suggest_setting(ENTRIES, shown, {**known, ENTRIES: ENTRY_KEYS}).replace("'source.text'", "'text'")
                yield Problem(f"{place}.{shown}", f"{words}: unknown key {shown}; {said.replace(chr(39) + 'embedding.', chr(39))}")
        for key in ("text", "column"):
            if entry.get(key) is None:
                yield Problem(place, f"{words}: {key} is missing")
        column = entry.get("column")
        if not isinstance(column, str):
            if column is not None:
                yield problem(f"{place}.column", False, column, "a column name")
            continue
        for name in (column, *(f"{column}{end}" for end in _BESIDE)):
            first = taken.setdefault(name.casefold(), index)
            if first != index:
                said = f"{words}: column {column!r} would write {name!r}, which entry {first + 1} writes: each needs a column of its own"
                yield Problem(f"{place}.column", said)
                break
    target = blocks.get("target")
    if not isinstance(target, Mapping) or target.get("table") is None:
        yield from _read_and_written(entries, taken)


def _read_and_written(entries: Sequence[Any], taken: Mapping[str, int]) -> Iterator[Problem]:
    """Say which entry's text is a column that an entry writes into the same table: it would be another text after each run."""
    for index, entry in enumerate(entries):
        text = entry.get("text") if isinstance(entry, Mapping) else None
        for name in [text] if isinstance(text, str) else text if isinstance(text, list) else []:
            writer = taken.get(name.casefold()) if isinstance(name, str) else None
            if writer is not None:
                said = (
                    f"entry {index + 1} of {ENTRIES}: text {name!r} is a column that entry {writer + 1} writes: name a column of your own"
                )
                yield Problem(f"{ENTRIES}.{index}.text", said)


def _shared_problems(blocks: Mapping[str, Any]) -> Iterator[Problem | None]:
    """Say what does not go with a list of columns."""
    source = blocks.get("source")
    if not isinstance(source, Mapping):
        return
    for key in OF_SOURCE:
        if source.get(key) is not None:
            yield Problem(f"source.{key}", f"source.{key} stands in each entry of {ENTRIES}, as {key}: leave it out of source")
    if source.get("key") == "auto":
        said = f"source.key=auto makes the key of the text, and each entry of {ENTRIES} has another text: name the key's columns"
        yield Problem("source.key", said)


def _chosen(blocks: Mapping[str, Any], columns: Sequence[str]) -> str | None:
    """Find the column that is asked for; None: all."""
    shared = blocks.get("embedding")
    column = shared.get("column") if isinstance(shared, Mapping) else None
    if column is not None and column not in columns:
        said = f"embedding.column is {shorten(str(column), 80)!r}, which is no column of {ENTRIES}; {did_you_mean(str(column), columns)}"
        refuse([Problem("embedding.column", said)])
    return column


def _of_entry(found: Problem, index: int, entry: Mapping[str, Any]) -> Problem:
    """Say of a problem of one column's sections in which entry it is, where the entry holds the setting."""
    section, _, rest = found.setting.partition(".")
    key = rest.partition(".")[0]
    if section not in ("embedding", "source") or not (key in entry or (section == "embedding" and "spec" in entry)):
        return found
    place = f"{ENTRIES}.{index}.{key}" if key in entry else f"{ENTRIES}.{index}"
    return Problem(place, f"entry {index + 1} of {ENTRIES}: {found.said}", found.is_missing)
