"""Strategies that damage valid files: at any byte, and at every place of the tree that a file of JSON or YAML holds."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

DEEP = 3_000

#: As the file writes them: no Python value becomes such text, or only one that the reader must refuse.
RAW_JSON = (
    "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * 60 + "]" * 60, "[" * 400 + "]" * 400, "1" * 5_000,
    "1" * 4_299, "-" + "9" * 400, "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "-0", '"\\ud800"', '"\\u0000"', '"\\udfff\\ud800"',
    '{"a": 1, "a": 2}', "00", "'x'", "",
)  # fmt: skip
RAW_YAML = (
    "[" * DEEP + "]" * DEEP, "{a: " * DEEP + "1" + "}" * DEEP, "[" * 60 + "]" * 60, "1" * 5_000, "0x" + "f" * 9_000, "0b" + "1" * 20_000,
    "1:" * 300 + "1", "1:" * 300 + "1.0", "1" * 400, "1" * 400 + ".0", "-.inf", ".nan", "1.0e+999", "0x", "0_", "0b", "08", "2020-99-99",
    "2020-01-01T00:00:00+99:99", "0001-01-01 00:00:00 +23:59", "!!bool x", "!!int x", "!!int ''", "!!float ''", "!!float x", "!!null x",
    "!!timestamp x", "!!binary x", "!!binary é", "!!str [a]", "!!set {a}", "!!set [a]", "!!omap [a: 1]", "!!omap [a]", "!!pairs [a: 1]",
    "!!map [a]", "!!seq {a: 1}", "!!python/object:os.system x", "!x y", "&a [*a]", "&b {b: *b}", "*nowhere", "{<<: {a: 1}}", "{<<: [1]}",
    "{<<: 1}", "{? [a] : 1}", "{? {a: 1} : 1}", "{? &c [*c] : 1}", "{null: 1}", "{1: 2}", "{2020-01-01: 1}", "{!!binary YQ==: 1}",
    "{a: 1, a: 2}", '"\\ud800"', '"\\0"', '"a\\0b"', '"\\x1b[31m"', "=", "|", "%TAG", "- ", "? ", "'", '"', "@", "`", "\t", "~",
)  # fmt: skip

#: Values of every type, at and beyond the ends of what a reader can use.
NASTY: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308,
    "", " ", "x", "0", "true", "null", "\0", "a\0b", "\ud800", "\x1b[31m", "\u202e", "\n", "x" * 300, "é" * 200, "x" * 5_000, "x/" * 3_000,
    "..", "../x", "/etc/passwd", "/dev/null", "~", "~\0", "~\ud800", "~nobody-at-all/x", "${env:HOME}/x", "{text}", "{text}{text}",
    [], {}, [[]], [None], [1, "x"], {"": None}, {"a": {"b": {}}}, {"__metadata__": 1},
)  # fmt: skip

leaves = st.one_of(
    st.sampled_from(NASTY), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.text(st.characters(), max_size=8)
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)
pieces = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(NASTY).filter(lambda value: isinstance(value, str)).map(lambda value: value.encode("utf-8", "surrogatepass")),
    st.sampled_from([raw.encode() for raw in (*RAW_JSON, *RAW_YAML)]),
    st.sampled_from(
        [b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\0", b"\r", b"\t", b"\n\n", b"---\n", b"...\n", b": ", b"#"]
    ),
)


@st.composite
def edited(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Edit a valid file one to four times: flip, insert, replace, remove or repeat some bytes, or cut the rest off."""
    content = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 30)))
        kind = draw(st.sampled_from(["flip", "insert", "replace", "remove", "repeat", "cut"]))
        if kind == "flip" and start < len(content):
            content = content[:start] + bytes([content[start] ^ draw(st.integers(1, 255))]) + content[start + 1 :]
        elif kind in ("insert", "replace"):
            content = content[:start] + draw(pieces) + content[start if kind == "insert" else stop :]
        elif kind == "remove":
            content = content[:start] + content[stop:]
        elif kind == "repeat":
            content = content[:stop] + content[start:stop] * draw(st.integers(1, 50)) + content[stop:]
        elif kind == "cut":
            content = content[:start]
    return content


@st.composite
def changed(draw: st.DrawFn, seeds: Sequence[Any], raw: Sequence[str]) -> bytes:
    """Change a valid tree at one to three places, and write it as JSON, which YAML reads too."""
    tree = [copy.deepcopy(draw(st.sampled_from(seeds)))]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        value = copy.deepcopy(draw(st.one_of(trees, st.integers(0, len(raw) - 1).map(_name_of))))  # a later change may be inside it
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add", "repeat", "wrap"]))
        if kind == "replace" or parent is tree:
            parent[key] = value
        elif kind == "remove":
            del parent[key]
        elif kind == "wrap":
            parent[key] = draw(st.sampled_from([[parent[key]], {str(key): parent[key]}, [parent[key]] * 3]))
        elif isinstance(parent, list):
            parent.insert(key, value)
        elif kind == "rename":
            parent[draw(st.sampled_from(["", "x", "x" * 300, "\0", "\ud800", "a.b", "null", "1", "<<", "__metadata__"]))] = parent.pop(key)
        else:
            parent[f"<again>{key}" if kind == "repeat" else draw(st.text(max_size=5))] = value
    return written(tree[0], raw)


def written(tree: Any, raw: Sequence[str]) -> bytes:
    """Write a tree; what `changed` marked becomes raw text, or a key that stands twice."""
    text = json.dumps(tree, ensure_ascii=True, indent=1).replace('"<again>', '"')
    for number, found in enumerate(raw):
        text = text.replace(json.dumps(_name_of(number)), found)
    return text.encode()


def _name_of(number: int) -> str:
    return f"<raw {number}>"


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """List every place of a tree: what holds it, and under which key."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def json_files(seeds: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Damage files of JSON in every way, or make one up."""
    files = [json.dumps(seed).encode() for seed in seeds]
    return st.one_of(changed(seeds, RAW_JSON), changed(seeds, RAW_JSON), edited(files), trees.map(lambda tree: written(tree, ())))


def yaml_files(seeds: Sequence[Any], files: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Damage files of YAML in every way, or make one up."""
    return st.one_of(changed(seeds, RAW_YAML), changed(seeds, RAW_YAML), edited(files), trees.map(lambda tree: written(tree, ())))


#: Names that no file has, or that mean another place than they seem to.
names = st.one_of(
    st.sampled_from([value for value in NASTY if isinstance(value, str)]),
    st.text(st.characters(), max_size=30),
    st.lists(
        st.sampled_from(["a", "/", "..", "~", "${env:HOME}", ".", ":", "s3a", "file", "dbfs", "\0", "*", "`", "é" * 150, " "]), max_size=8
    ).map("".join),
)
