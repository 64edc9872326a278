"""Values of a wrong type, for every setting of every section: the settings come from the type hints, so a new setting is tested too."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from metaeol_udf.config import CHOICES, JobConfig, parse_config, switches
from metaeol_udf.errors import ConfigError
from metaeol_udf.setting_types import describe, fits, read_setting
from metaeol_udf.spec import SETTINGS, EmbeddingSpec

BASE: dict[str, dict[str, Any]] = {"source": {"table": "a/b", "key": ["id"]}, "embedding": {"model": "m"}}

#: Values as YAML may give them, and the types that each fits.
VALUES: list[tuple[Any, set[Any]]] = [
    (True, {bool}),
    (7, {int, float}),
    (1.5, {float}),
    (float("nan"), {float}),
    ("words", {str, tuple}),  # a single name stands for a list of names
    ("7", {str, tuple}),
    ("true", {str, tuple}),
    ("", set()),
    ([], set()),
    (["a", "b"], {tuple}),
    (["a", 3], set()),
    ([""], set()),
    ([None], set()),
    ([["a"]], set()),
    ({}, {Mapping}),
    ({"a": "b"}, {Mapping}),
]


def kinds_of(hint: Any) -> set[Any]:
    """The plain types in a hint."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return {get_origin(member) or member for member in members}


def sections() -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(JobConfig).items() if dataclasses.is_dataclass(hint) and hint is not EmbeddingSpec}


def settings() -> list[Any]:
    found = [(section, key, hint) for section, kind in sections().items() for key, hint in get_type_hints(kind).items()]
    return [pytest.param(*each, id=f"{each[0]}.{each[1]}") for each in found]


def parsed(section: str, key: str, value: Any) -> Any:
    blocks: dict[str, dict[str, Any]] = {**BASE, section: {**BASE.get(section, {}), key: value}}
    if (section, key, type(value)) == ("source", "format", str):  # of files alone
        blocks |= {"source": {"path": "a/b", "key": ["id"], key: value}, "target": {"table": "v/t"}}
    config = parse_config(blocks)
    return getattr(getattr(config, section), key)


@pytest.mark.parametrize(("section", "key", "hint"), settings())
def test_a_value_of_another_type_is_refused_by_name(section: str, key: str, hint: Any) -> None:
    wrong = [value for value, kinds in VALUES if not kinds & kinds_of(hint)]
    assert len(wrong) >= 5
    for value in wrong:
        with pytest.raises(ConfigError) as refused:
            parsed(section, key, value)
        assert str(refused.value).startswith(f"{section}.{key} must be ")
        found = (
            type(value).__name__
            if (section, key) in (("spark", "conf"), ("source", "options"), ("target", "fingerprint_key"))
            else repr(value)
        )  # which may be a secret
        assert f", found {found}" in str(refused.value)


@pytest.mark.parametrize("key", SETTINGS)
def test_a_value_of_another_type_is_refused_in_the_embedding_too(key: str) -> None:
    kinds = kinds_of(get_type_hints(EmbeddingSpec)[key])
    for value in (value for value, fitting in VALUES if not fitting & kinds and value != ""):
        with pytest.raises(ConfigError, match=rf"^embedding\.{key} must be "):
            parse_config({**BASE, "embedding": {"model": "m", key: value}})


@pytest.mark.parametrize(("section", "key", "hint"), settings())
def test_a_value_of_its_type_is_read_or_only_out_of_range(section: str, key: str, hint: Any) -> None:
    for value, kinds in VALUES:
        if kinds & kinds_of(hint):
            assert read_setting("name", value, hint) is not None
    default = next(field for field in dataclasses.fields(sections()[section]) if field.name == key).default
    if default is not dataclasses.MISSING and (section, key) != ("source", "table"):  # in whose place there may be files or a query
        assert parsed(section, key, None) == default
    for word in CHOICES.get(f"{section}.{key}", ()):
        assert parsed(section, key, word) == word


@pytest.mark.parametrize(
    ("hint", "value", "form"),
    [
        (bool, False, False),
        (float, 3, 3),
        (int | None, 3, 3),
        (int | str, "auto", "auto"),
        (bool | str | None, "name", "name"),
        (tuple[str, ...], "id", ("id",)),
        (tuple[str, ...] | None, ["a", "b"], ("a", "b")),
        (Mapping[str, str], {"a": True, 2: 3.5}, {"a": "true", "2": "3.5"}),
        (Annotated[int | None, "a number"], 3, 3),
    ],
)
def test_a_value_is_brought_into_the_form_of_its_field(hint: Any, value: object, form: object) -> None:
    read = read_setting("name", value, hint)
    assert (read, type(read)) == (form, type(form))


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "true or false"),
        (int | None, "an integer"),
        (int | str, "an integer or a string"),
        (tuple[str, ...] | None, "a list of names"),
        (Mapping[str, str], "a mapping of settings"),
        (Annotated[int | None, "null or a positive integer"], "null or a positive integer"),
    ],
)
def test_a_message_names_what_fits(hint: Any, words: str) -> None:
    assert describe(hint) == words
    with pytest.raises(ConfigError, match=rf"^name must be {words}, found "):
        read_setting("name", {1}, hint)


def test_null_fits_only_where_the_hint_says_so() -> None:
    assert fits(None, int | None)
    assert not fits(None, int)


def test_a_hint_without_a_rule_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError, match="no rule"):
        fits(b"x", bytes)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("runtime", "task_gpus", "two", "runtime.task_gpus must be null or a positive integer, found 'two'"),
        ("runtime", "task_gpus", 0, "runtime.task_gpus must be null or a positive integer, found 0"),
        ("runtime", "max_batch_tokens", True, "runtime.max_batch_tokens must be auto or a positive integer, found True"),
        ("runtime", "max_batch_tokens", "atuo", "runtime.max_batch_tokens must be auto or a positive integer, found 'atuo'; did you mean"),
        ("runtime", "mlflow", "", "runtime.mlflow must be true, false or the name of an experiment, found ''"),
        ("runtime", "wave_rows", "x", "runtime.wave_rows must be an integer, found 'x'"),
        ("stream", "start", True, "stream.start must be earliest, latest or a version, found True"),
        ("stream", "start", -1, "stream.start must be earliest, latest or a version, found -1"),
        ("evaluation", "limit", "many", "evaluation.limit must be null or a positive integer, found 'many'"),
        ("spark", "conf", "x", "spark.conf must be a mapping of Spark settings, found str"),
        ("source", "key", "", "source.key must be auto or a list of names, found ''"),
        ("estimate", "price_per_hour", "1 USD", "estimate.price_per_hour must be a number, found '1 USD'"),
    ],
)
def test_messages_name_the_rule(section: str, key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(section, key, value)
    assert str(refused.value).startswith(message)


def test_switches_are_the_settings_that_are_true_or_false() -> None:
    assert switches() == ["quality.gate", "embedding.normalize", "embedding.per_template"]
