"""Lines of labelled data: tables of fields split by tabs, and JSON objects. A message names file, line and rule, and quotes nothing."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from metaeol_udf.errors import ConfigError, one_line
from metaeol_udf.files import parse_json


def read_rows(path: Path, columns: Sequence[str], least: int = 2) -> Iterator[tuple[int, list[str]]]:
    """Read the rows of a file, which may be zipped: of each row the line number, from 2, and the fields of `columns`.

    There must be `least` rows, one or two.

    Raises:
        ConfigError: The file cannot be read or breaks the form; the message gives file, line and rule, and never quotes a field.
    """
    with _open(path) as file:
        head = file.readline().rstrip("\r\n").split("\t")
        missing = [column for column in columns if head.count(column) != 1]
        check_line(
            path, 1, not missing, f"the header must name {', '.join(columns)} once each, split by tabs; look at {', '.join(missing)}"
        )
        places = [head.index(column) for column in columns]
        line = 1
        for line, text in enumerate(file, start=2):
            fields = text.rstrip("\r\n").split("\t")
            check_line(path, line, len(fields) == len(head), f"a row must have {len(head)} fields, found {len(fields)}")
            yield line, [fields[place] for place in places]
        check_line(path, line, line > least, f"at least {'two rows' if least == 2 else 'one row'} must follow the header")


def read_objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Read the JSON objects of a file, which may be zipped, one a line: of each the line number, from 1, and its content.

    Blank lines hold none.

    Raises:
        ConfigError: The file cannot be read, or a line holds no object; the message gives file, line and rule, and never quotes a line.
    """
    with _open(path) as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                found = parse_json(text)
            except ValueError:
                found = None
            check_line(path, line, isinstance(found, dict), "a line must be one JSON object")
            yield line, found


def check_line(path: Path, line: int, holds: bool, rule: str) -> None:
    """Check what a line must be.

    Raises:
        ConfigError: It is not so; the message gives file, line and rule.
    """
    if not holds:
        raise ConfigError(f"{path}, line {line}: {rule}")


def read_score(path: Path, line: int, field: str) -> float:
    """Read a score from the field of a file's line.

    Raises:
        ConfigError: The field holds no finite number; the message gives file, line and rule, and never quotes the field.
    """
    try:
        score = float(field)
    except ValueError:
        score = math.nan
    check_line(path, line, math.isfinite(score), "score must be a number")
    return score


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    """Open a file of UTF-8 text, zipped or not; what goes wrong while it is read is an error of the configuration."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield io.TextIOWrapper(cast("IO[bytes]", file), encoding="utf-8", newline="\n")
    except ConfigError:
        raise
    except UnicodeDecodeError:
        raise ConfigError(f"{path} must be UTF-8 text") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:  # the last of a name that no file can have
        raise ConfigError(f"cannot read {path}: {one_line(error)}") from None
