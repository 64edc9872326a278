"""Template sets, clean-up, seams and the trie, without any model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import metaeol_udf
from metaeol_udf import TemplateSet
from metaeol_udf.errors import ConfigError
from metaeol_udf.prompts import PromptTemplate, clean_text
from metaeol_udf.prompts.templates import builtin_names
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import CommonStart, PromptTrie, find_common_starts
from tests.encoder.oracle import clean_as_paper
from tests.tiny_models import TOKENIZERS

PIECES = st.sampled_from(
    [
        *('"', "'", "?", ".", " ", "\n", "\t", "{text}", "{", "}", "%s", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "\x00"),
        *("\u0301", "\u200d", "é", "😀", "👩\u200d👧", "العربية", "日本", "in one word:", '" in', "word", "\u2028", "\ufeff", "\u00a0"),
        *("'s", "...", "1", "\U0010ffff"),
    ]
)
NASTY = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join), st.text(st.characters(codec="utf-8"), max_size=30))


def prompt_tokenizer(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(transformers.AutoTokenizer.from_pretrained(folder))


def whole_prompts(trie: PromptTrie, templates: TemplateSet, text: str) -> list[list[int]]:
    """Put prompts together again from what the trie says."""
    prompts: dict[int, list[int]] = {}
    for group, ids in zip(trie.groups, trie.tokenize([text]), strict=True):
        for template, output in zip(group.template_indices, group.outputs, strict=True):
            seen = [group.suffix_ids[j] for j in range(len(group.suffix_ids)) if output >= 0 and group.suffix_sees[output, j]]
            prompts[template] = [*group.prefix_ids, *ids[0], *seen]
    return [prompts[i] for i in range(len(templates.templates))]


@pytest.mark.parametrize("kind", [*TOKENIZERS, "smollm2"])
@pytest.mark.parametrize("name", ["metaeol", "metaeol-fast"])
def test_the_trie_holds_exactly_the_tokens_of_whole_prompts(
    kind: str, name: str, tiny_model: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("model_dir") if kind == "smollm2" else tiny_model("llama", kind)
    tokenizer, templates = prompt_tokenizer(folder), TemplateSet.load(name)
    trie = PromptTrie(templates, tokenizer)

    @settings(max_examples=600, deadline=None, database=None)
    @given(NASTY)
    def check(text: str) -> None:
        cleaned = clean_text(text, "paper")
        assert whole_prompts(trie, templates, cleaned) == tokenizer.tokenize([templates.fill(t, cleaned) for t in templates.templates])

    check()


def test_byte_level_tokenizers_are_cut_and_share_prefixes(tiny_model: Callable[..., Path]) -> None:
    tokenizer = prompt_tokenizer(tiny_model("llama"))
    shared = PromptTrie(TemplateSet.load("metaeol"), tokenizer)
    assert shared.is_cut
    assert [group.template_indices for group in shared.groups] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert [group.template_indices for group in PromptTrie(TemplateSet.load("metaeol-fast"), tokenizer).groups] == [tuple(range(8))]
    assert len(PromptTrie(TemplateSet.load("metaeol-separate"), tokenizer).groups) == 8


def test_a_cut_that_fails_while_running_is_given_up(tiny_model: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, templates = prompt_tokenizer(tiny_model("llama")), TemplateSet.load("metaeol")
    trie = PromptTrie(templates, tokenizer)
    assert trie._cuts is not None
    object.__setattr__(trie._cuts[0], "suffix_ids", (1, 2, 3))  # a cut that was proved at load and is wrong for later texts
    prompts = [template.prompt for template in templates.templates]
    assert trie.tokenize(["a text."]) == [tokenizer.tokenize([p.replace("{text}", "a text.")]) for p in prompts]
    assert not trie.is_cut
    assert "whole prompts are tokenised" in caplog.text


@settings(max_examples=2000, deadline=None, database=None)
@given(NASTY)
def test_paper_clean_up_is_the_authors(text: str) -> None:
    assert clean_text(text, "paper") == clean_as_paper(text)


@settings(max_examples=500, deadline=None, database=None)
@given(NASTY)
def test_the_text_stands_in_the_prompt_once_and_changes_nothing_else(text: str) -> None:
    templates = TemplateSet("t", "none", (PromptTemplate("m", "prefix {not} {{ {text} }} suffix"),))
    assert templates.fill(templates.templates[0], text) == "prefix {not} {{ " + text + " }} suffix"


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert clean_text("a\ud800b", "none") == "a\ufffdb"
    assert clean_text("😀", "none") == "😀"


def test_special_tokens_in_a_text_are_split_like_other_characters(model_dir: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    special = set(tokenizer.all_special_ids)
    assert not special & set(PromptTokenizer(tokenizer).tokenize(["<|im_start|>user <|im_end|>"])[0])


@pytest.mark.parametrize("max_tokens", [1, 5, 64])
def test_trimming_keeps_the_first_tokens(max_tokens: int, tiny_model: Callable[..., Path]) -> None:
    tokenizer = prompt_tokenizer(tiny_model("llama"))
    text = "the people play music by the river " * 50
    kept, was_cut = tokenizer.trim(text, max_tokens)
    assert was_cut
    assert text.startswith(kept)
    assert tokenizer.tokenize_inside([kept]) == [tokenizer.tokenize_inside([text])[0][:max_tokens]]
    assert tokenizer.trim("a", 5) == ("a", False)


@pytest.mark.parametrize("name", ["metaeol", "metaeol-fast", "metaeol-reversed", "metaeol-separate", "metaeol-two", "prompteol"])
def test_built_in_sets_ask_for_one_word_and_end_where_it_would_stand(name: str) -> None:
    templates = TemplateSet.load(name)
    assert len(templates.templates) == {"prompteol": 1, "metaeol-two": 2, "metaeol-reversed": 4}.get(name, 8)
    assert all("in one word" in template.prompt.lower() and template.suffix.endswith(' "') for template in templates.templates)
    assert builtin_names() == ["metaeol", "metaeol-fast", "metaeol-reversed", "metaeol-separate", "metaeol-two", "prompteol"]


def test_built_in_sets_are_read_from_a_wheel_that_is_not_unpacked(tmp_path: Path) -> None:
    """Spark's --py-files puts the zip file itself on the path."""
    archive = shutil.make_archive(str(tmp_path / "wheel"), "zip", Path(metaeol_udf.__file__).parents[1], "metaeol_udf")
    program = f"import sys; sys.path.insert(0, {archive!r}); from metaeol_udf import TemplateSet as T; print(T.load('metaeol').digest())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.strip(), done.returncode) == (TemplateSet.load("metaeol").digest(), 0), done.stderr[-2000:]


def test_a_users_file_works_like_a_built_in_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntext_cleanup: none\ntemplates:\n  - {meta_task: topic, prompt: 'About {text}:'}\n")
    templates = TemplateSet.load(file)
    assert (templates.name, templates.text_cleanup, templates.templates) == ("mine", "none", (PromptTemplate("topic", "About {text}:"),))


@settings(max_examples=500, deadline=None, database=None)
@given(NASTY)
def test_a_reversed_text_keeps_its_words_and_backwards_again_is_the_text(text: str) -> None:
    template = PromptTemplate("m", "a {text} z", "reversed")
    placed = template.order_words(text)
    assert placed.split() == text.split()[::-1]
    assert template.order_words(placed) == " ".join(text.split())
    assert TemplateSet("t", "none", (template,)).fill(template, text) == f"a {placed} z"


def test_the_order_of_words_belongs_to_the_content_where_it_is_another_one() -> None:
    prompt = {"meta_task": "m", "prompt": "a {text}:"}
    plain, said, backwards = (
        TemplateSet.from_mapping({"name": "n", "templates": [prompt | order]})
        for order in ({}, {"word_order": "as_written"}, {"word_order": "reversed"})
    )
    assert plain.digest() == said.digest() != backwards.digest()
    assert "word_order" not in plain.to_yaml()
    assert TemplateSet.from_mapping(yaml.safe_load(backwards.to_yaml())) == backwards


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_reversed_text_takes_no_more_tokens_than_are_reckoned_with(kind: str, tiny_model: Callable[..., Path]) -> None:
    tokenizer = prompt_tokenizer(tiny_model("llama", kind))
    template = PromptTemplate("m", "a {text}:", "reversed")
    most = TemplateSet("t", "none", (template,)).most_growth

    @settings(max_examples=300, deadline=None, database=None)
    @given(st.lists(NASTY, min_size=5, max_size=20).map(" ".join))
    def check(text: str) -> None:
        n_tokens = len(tokenizer.tokenize_inside([text])[0])
        assert len(tokenizer.tokenize_inside([template.order_words(text)])[0]) <= most * n_tokens + 1

    check()


@pytest.mark.parametrize(
    ("yaml_text", "message"),
    [
        ("name: x\ntemplates: [{meta_task: a, prompt: '{text}', word_order: reverse}]", "one of as_written, reversed, found 'reverse'"),
        ("name: x\ntemplates: [{meta_task: a, prompt: no slot}]", "exactly once, found 0"),
        ("name: x\ntemplates: [{meta_task: a, prompt: '{text} {text}'}]", "exactly once, found 2"),
        ("name: x\ntemplates: [{meta_task: a, promt: '{text}'}]", "did you mean 'prompt'"),
        ("name: x\ntext_cleanup: papr\ntemplates: [{meta_task: a, prompt: '{text}'}]", "one of paper, none"),
        ("name: x\ntemplates: []", "has no templates"),
        ("templates: [{meta_task: a, prompt: '{text}'}]", "'name' is missing"),
        ("[1, 2]", "must be a mapping"),
        ("{", "cannot read"),
    ],
)
def test_a_broken_template_file_is_refused_with_its_reason(yaml_text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(yaml_text)
    with pytest.raises(ConfigError, match=message):
        TemplateSet.load(file)


def test_an_unknown_set_offers_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'metaeol-fast'"):
        TemplateSet.load("metaeol-fats")


@settings(max_examples=400, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(0, 5)), min_size=1, max_size=20))
def test_common_starts_are_disjoint_real_and_leave_every_text_a_token(parts: list[tuple[int, int, int]]) -> None:
    ids = [[start] * n + [9] * rest for start, n, rest in parts]
    starts = find_common_starts(ids)
    rows = [row for start in starts for row in start.rows]
    assert len(rows) == len(set(rows))
    for start in starts:
        assert len(start.rows) > 1
        assert len({tuple(ids[row][: start.n_tokens]) for row in start.rows}) == 1
        assert all(len(ids[row]) > start.n_tokens >= 16 for row in start.rows)


def test_the_common_start_that_saves_most_is_chosen() -> None:
    log = list(range(100, 140))
    ids = [[*log, i] for i in range(6)] + [[*log, *range(200, 260), i] for i in range(4)] + [[7, i] for i in range(5)]
    assert find_common_starts(ids) == [CommonStart(40, tuple(range(10)))]
    ids = [[*log[:20], 1]] * 2 + [[*log, *range(200, 260), i] for i in range(4)]
    assert find_common_starts(ids) == [CommonStart(100, (2, 3, 4, 5))]
    assert find_common_starts([]) == []
