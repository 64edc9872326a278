"""Checks and drafts of template sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
import yaml

from metaeol_udf import TemplateSet, cli
from metaeol_udf.cli.views.prompts import USES
from metaeol_udf.errors import ConfigError
from metaeol_udf.prompts import PromptTemplate
from metaeol_udf.prompts.checks import check_templates, ends_in_cue
from metaeol_udf.prompts.drafts import MetaTaskForm, draft_templates
from metaeol_udf.prompts.templates import builtin_names
from metaeol_udf.prompts.tokenizer import PromptTokenizer


@pytest.fixture(scope="session")
def smollm2(model_dir: Path) -> PromptTokenizer:
    return PromptTokenizer(transformers.AutoTokenizer.from_pretrained(model_dir))


@pytest.mark.parametrize(
    ("suffix", "is_cue"),
    [
        ('" Topic: "', True),
        ('" means in one word: "', True),
        ('" means in one word:"', True),
        ('" Its topic in one word is "', True),
        ('" Topic:', True),
        ("“ Thema: „", True),
        ("」主题：「", True),
        ('" Topic: "\n', True),
        ('"', False),
        ('" Say it in one word', False),
        ('" Say it in one word.', False),
        ('" Answer in one "word"', False),
        ('" "', False),
        ("", False),
    ],
)
def test_a_cue_opens_where_one_word_would_stand(suffix: str, is_cue: bool) -> None:
    assert ends_in_cue(PromptTemplate("topic", 'A sentence: "{text}' + suffix)) is is_cue


@pytest.mark.parametrize("name", builtin_names())
def test_the_sets_that_ship_have_no_problem(name: str, smollm2: PromptTokenizer) -> None:
    check = check_templates(TemplateSet.load(name), smollm2)
    assert check.problems == ()
    assert check.tokens is not None
    assert check.tokens.is_cut


def test_tokens_are_those_of_whole_prompts_less_what_is_shared(smollm2: PromptTokenizer, model_dir: Path) -> None:
    tokens = check_templates(TemplateSet.load("metaeol"), smollm2, n_text_tokens=20).tokens
    assert tokens is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    sentence = "The parcel came on Tuesday, two days later than we had been told, and one of the three boxes was open. "
    text = tokenizer.decode(tokenizer(sentence)["input_ids"][:20]).strip() + "."
    ids = [tokenizer(t.prompt.replace("{text}", text).strip())["input_ids"] for t in TemplateSet.load("metaeol").templates]
    # two templates of a meta-task are the same up to the words of their suffixes
    shared = [next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y) for a, b in zip(ids[::2], ids[1::2], strict=True)]
    assert tokens.n_text_tokens == len(tokenizer(text)["input_ids"])
    assert tokens.whole == sum(map(len, ids))
    assert tokens.n_text_passes == 4
    assert tokens.whole == tokens.prefixes + tokens.texts + tokens.suffixes + sum(shared)
    assert tokens.computed == tokens.texts + tokens.suffixes


def test_a_longer_text_costs_as_many_tokens_as_it_has_passes(smollm2: PromptTokenizer) -> None:
    for name, n_passes in (("metaeol", 4), ("metaeol-fast", 1), ("metaeol-separate", 8)):
        short, long = (check_templates(TemplateSet.load(name), smollm2, n_text_tokens=n).tokens for n in (32, 132))
        assert short is not None
        assert long is not None
        assert (long.n_text_tokens - short.n_text_tokens) * n_passes == long.computed - short.computed
        assert (long.prefixes, long.suffixes) == (short.prefixes, short.suffixes)


def test_what_is_wrong_with_a_set_is_said(smollm2: PromptTokenizer) -> None:
    prompts = ['A: "{text}" Topic: "', 'A: "{text}" Topic: "', 'B: "{text}" Name its topic']
    templates = TemplateSet("mine", "none", tuple(PromptTemplate("topic", prompt) for prompt in prompts))
    check = check_templates(templates, smollm2)
    assert len(check.problems) == 1
    assert "prompt 2 (topic) does not end in a cue for one word" in check.problems[0]
    assert [warning.partition(":")[0] for warning in check.warnings] == ["a prompt stands in the set more than once and counts as often"]
    assert (check.n_templates, check.n_prefixes, check.n_suffixes) == (3, 2, 2)


def test_a_set_that_shares_nothing_or_cannot_be_cut_is_a_warning(smollm2: PromptTokenizer) -> None:
    separate = check_templates(TemplateSet.load("metaeol-separate"), smollm2)
    assert [warning.partition(":")[0] for warning in separate.warnings] == ["no two prompts begin alike"]
    whole = check_templates(TemplateSet.load("metaeol"), smollm2, may_cut=False)
    assert whole.tokens is not None
    assert (whole.tokens.is_cut, whole.tokens.computed) == (False, whole.tokens.whole)
    assert ["cannot be cut" in warning for warning in whole.warnings] == [True]


def test_tails_that_begin_differently_cost_a_pass_each(smollm2: PromptTokenizer) -> None:
    prompts = ['A: "{text}" Topic: "', "A: \"{text}. What is its topic, in one word? '"]
    check = check_templates(TemplateSet("mine", "none", tuple(PromptTemplate("topic", prompt) for prompt in prompts)), smollm2)
    assert check.tokens is not None
    assert check.tokens.n_text_passes == 2
    assert "1 prefixes need 2 text passes" in check.warnings[0]


def test_a_draft_asks_for_one_word_and_shares_its_prefixes(smollm2: PromptTokenizer) -> None:
    forms = [MetaTaskForm("urgency", ("low", "high", "critical"), ("urgency", "priority")), MetaTaskForm("product area")]
    templates = draft_templates("tickets", forms)
    assert [template.prompt for template in templates.templates] == [
        'Say in one word the urgency of a text, such as low, high or critical. Text: "{text}" Urgency: "',
        'Say in one word the urgency of a text, such as low, high or critical. Text: "{text}" Priority: "',
        'Say in one word the product area of a text. Text: "{text}" Product area: "',
        'Say in one word the product area of a text. Text: "{text}" Answer: "',
    ]
    check = check_templates(templates, smollm2)
    assert (check.problems, check.warnings) == ((), ())
    assert check.tokens is not None
    assert check.tokens.n_text_passes == 2


@pytest.mark.parametrize("word", ["", "  ", 'a "b"', "{text}"])
def test_a_form_takes_plain_words(word: str) -> None:
    with pytest.raises(ConfigError, match="plain words"):
        MetaTaskForm(word)
    with pytest.raises(ConfigError, match="plain words"):
        MetaTaskForm("urgency", (word,))


def test_a_draft_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    templates = draft_templates("größe: #1", [MetaTaskForm("Größe", ("klein", "groß")), MetaTaskForm("it's: a test")])
    path = tmp_path / "mine.yaml"
    path.write_text(templates.to_yaml(), encoding="utf-8")
    assert TemplateSet.load(path) == templates


def test_the_command_lists_the_sets_that_ship(capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    assert cli.run(["templates", "list"]) == 0
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["set", "templates", "prefixes", "for"]
    assert [line.split()[:3] for line in lines] == [
        ["metaeol", "8", "4"],
        ["metaeol-fast", "8", "1"],
        ["metaeol-reversed", "4", "2"],
        ["metaeol-separate", "8", "8"],
        ["metaeol-two", "2", "2"],
        ["prompteol", "1", "1"],
    ]
    assert [line.split(maxsplit=3)[3] for line in lines] == list(USES.values())
    assert cli.run(["templates", "list", "--model", str(model_dir)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[3:-2] == ["tokens", "once", "tokens", "a", "text", "of"]
    assert cli.run(["templates", "list", "--model", str(model_dir), "--json"]) == 0
    assert [entry["tokens"]["n_text_passes"] for entry in json.loads(capsys.readouterr().out)] == [4, 1, 2, 8, 2, 1]


def test_the_command_checks_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    assert cli.run(["templates", "check", "metaeol", "--model", str(model_dir)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("metaeol\n")
    assert "passes of the text        4\n" in printed
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "templates": [{"meta_task": "topic", "prompt": "About {text}"}]}))
    assert cli.run(["templates", "check", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"] == [
        "prompt 0 (topic) does not end in a cue for one word, such as `Topic: \"`, but in 'About {text}'"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "no-such.yaml"], "no built-in set and no file 'no-such.yaml'"),
        (["check", "metaeol", "--model", "no/where"], "no such folder"),
        (["new", "mine", "--meta-task", "urgency", "--out", "{there}"], "is there already; --force replaces it"),
        (["new", "mine", "--meta-task", "urgency", "--out", "{new}", "--draft"], "--draft needs a model: --model DIR"),
        (["new", "mine", "--meta-task", "urgency", "--out", "{new}", "--pairs", "x.tsv"], "--pairs needs a model: --model DIR"),
        (["new", "mine", "--meta-task", "", "--out", "{new}"], "plain words"),
        (["new", "mine", "--meta-task", "urgency", "--options", "a", "--options", "b", "--out", "{new}"], "found 2 for 1"),
    ],
)
def test_a_wrong_call_prints_one_line(arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    there, new = tmp_path / "there.yaml", tmp_path / "new.yaml"
    there.touch()
    assert cli.run(["templates", *(argument.format(there=there, new=new) for argument in arguments)]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not new.exists()


def test_the_command_drafts_from_a_form(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Callable[..., Path]) -> None:
    path = tmp_path / "sets" / "mine.yaml"
    arguments = [
        "templates",
        "new",
        "tickets",
        "--meta-task",
        "urgency",
        "--options",
        "low, high",
        "--meta-task",
        "topic",
        "--out",
        str(path),
    ]
    assert cli.run(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}: 4 templates\ntickets\n")
    assert "problem" not in printed
    expected = draft_templates("tickets", [MetaTaskForm("urgency", ("low", "high")), MetaTaskForm("topic")])
    assert TemplateSet.load(path) == expected
    assert cli.run([*arguments, "--force", "--model", str(tiny_model("llama"))]) == 0
    assert "passes of the text        2\n" in capsys.readouterr().out
