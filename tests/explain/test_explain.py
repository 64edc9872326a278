"""Next words of prompts, against the model's own logits computed here."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from rich.console import Console
from tokenizers import decoders

from metaeol_udf import EmbeddingSpec, TemplateSet, cli
from metaeol_udf.cli.views import show_words
from metaeol_udf.errors import ConfigError, ModelFilesError
from metaeol_udf.explain.next_words import Explanation, TemplateWords, Word, explain_text, spell
from metaeol_udf.explain.plot import draw_explanation
from tests.encoder.oracle import clean_as_paper
from tests.tiny_models import TOKENIZERS

TEXT = 'Two people play "music" by the river?'


def spec_of(folder: Path, **settings: Any) -> EmbeddingSpec:
    return EmbeddingSpec(model=str(folder), templates="metaeol", dtype="float32", **settings)


def load_plainly(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


def prompt_ids(tokenizer: Any, text: str) -> list[torch.Tensor]:
    """Token ids of the eight whole prompts around a text that is clean already."""
    prompts = [template.prompt.replace("{text}", text).strip() for template in TemplateSet.load("metaeol").templates]
    return [torch.tensor([tokenizer(prompt, split_special_tokens=True)["input_ids"]]) for prompt in prompts]


def assert_equal(explanation: Explanation, expected: torch.Tensor) -> None:
    """`expected`: probabilities, shape ``(n_templates, vocabulary)``."""
    assert len(explanation.templates) == len(expected)
    for template, probabilities in zip(explanation.templates, expected, strict=True):
        best = probabilities.topk(len(template.words))
        torch.testing.assert_close(torch.tensor([word.probability for word in template.words]), best.values, rtol=1e-4, atol=1e-7)
        for word in template.words:
            assert word.probability == pytest.approx(float(probabilities[word.token_id]), rel=1e-4)


@pytest.mark.parametrize("shape", ["llama", "gemma2", "gpt2", "opt"])
@torch.no_grad()
def test_the_words_are_the_models_own(shape: str, with_head: Callable[..., Path]) -> None:
    folder = with_head(shape)
    tokenizer, model = load_plainly(folder)
    expected = torch.stack([model(ids).logits[0, -1].softmax(-1) for ids in prompt_ids(tokenizer, clean_as_paper(TEXT))])
    explanation = explain_text(spec_of(folder), TEXT, device="cpu", top=7)
    assert (explanation.layer, explanation.n_layers, explanation.is_trimmed) == (4, 4, False)
    assert [len(template.words) for template in explanation.templates] == [7] * 8
    assert [template.meta_task for template in explanation.templates] == [t.meta_task for t in TemplateSet.load("metaeol").templates]
    assert_equal(explanation, expected)


@pytest.mark.parametrize(("layer", "index"), [(2, 2), (0.5, 2), (-2, 3), (0, 0)])
@torch.no_grad()
def test_an_earlier_layer_goes_through_the_final_norm_and_the_head(layer: int | float, index: int, with_head: Callable[..., Path]) -> None:
    folder = with_head("llama")
    tokenizer, model = load_plainly(folder)
    rows = []
    for ids in prompt_ids(tokenizer, clean_as_paper(TEXT)):
        state = model(ids, output_hidden_states=True).hidden_states[index][0, -1]
        rows.append(model.lm_head(model.model.norm(state)).softmax(-1))
    explanation = explain_text(spec_of(folder), TEXT, device="cpu", layer=layer)
    assert explanation.layer == index
    assert_equal(explanation, torch.stack(rows))


@torch.no_grad()
def test_an_earlier_layer_keeps_the_models_soft_cap(with_head: Callable[..., Path]) -> None:
    folder = with_head("gemma2")
    tokenizer, model = load_plainly(folder)
    cap, rows = model.config.final_logit_softcapping, []
    assert cap
    for ids in prompt_ids(tokenizer, clean_as_paper(TEXT)):
        state = model(ids, output_hidden_states=True).hidden_states[3][0, -1]
        rows.append((torch.tanh(model.lm_head(model.model.norm(state)) / cap) * cap).softmax(-1))
    assert_equal(explain_text(spec_of(folder), TEXT, device="cpu", layer=3), torch.stack(rows))


@pytest.mark.parametrize("shape", ["gpt2", "opt", "gpt_neox", "phi3"])
def test_earlier_layers_of_other_families_are_read_too(shape: str, with_head: Callable[..., Path]) -> None:
    own, earlier = (explain_text(spec_of(with_head(shape)), TEXT, device="cpu", top=1, layer=layer) for layer in (-1, 2))
    assert [t.words[0].probability for t in own.templates] != [t.words[0].probability for t in earlier.templates]


def test_the_specs_own_layer_does_not_count(with_head: Callable[..., Path]) -> None:
    folder = with_head("llama")
    assert explain_text(spec_of(folder, layer=1), TEXT, device="cpu") == explain_text(spec_of(folder), TEXT, device="cpu")


@torch.no_grad()
def test_a_long_text_is_trimmed_and_the_prompt_is_not(with_head: Callable[..., Path]) -> None:
    folder = with_head("llama")
    tokenizer, model = load_plainly(folder)
    explanation = explain_text(spec_of(folder, max_tokens=5), "the river " * 50, device="cpu")
    assert explanation.is_trimmed
    kept = tokenizer.decode(tokenizer("the river " * 50)["input_ids"][:5])
    expected = torch.stack([model(ids).logits[0, -1].softmax(-1) for ids in prompt_ids(tokenizer, clean_as_paper(kept))])
    assert_equal(explanation, expected)


def test_special_tokens_of_a_text_are_characters(with_head: Callable[..., Path]) -> None:
    folder = with_head("llama")
    assert explain_text(spec_of(folder), "a <|end|> b", device="cpu") != explain_text(spec_of(folder), "a  b", device="cpu")


@pytest.mark.parametrize(("kind", "space"), [("byte_level", "Ġ"), ("sentencepiece_like", "▁")])
def test_words_that_differ_in_a_leading_space_are_apart(kind: str, space: str) -> None:
    backend = TOKENIZERS[kind]()
    if kind == "sentencepiece_like":  # Llama 2's own decoder, which drops the space of the first token
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        backend.decoder = decoders.Sequence(steps)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    spaced, bare = tokenizer.convert_tokens_to_ids([f"{space}music", "e"])
    assert [spell(tokenizer, token_id) for token_id in (spaced, bare)] == [" music", "e"]


def test_real_words_read_well(model_dir: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir)
    spaced, bare, capital, line = (tokenizer(word)["input_ids"][0] for word in (" music", "music", "Music", "\n"))
    words = [Word(spell(tokenizer, token_id), token_id, 0.1) for token_id in (spaced, bare, capital, line)]
    assert [word.visible for word in words] == ["␣music", "music", "Music", r"\n"]


def test_what_is_no_whole_character_is_named_by_its_number() -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS["byte_level"]())
    first_byte = tokenizer("日")["input_ids"][0]
    assert spell(tokenizer, first_byte) == f"<token {first_byte}>"
    assert spell(tokenizer, 1023) == "<token 1023>"  # rows of the head beyond the tokenizer's vocabulary


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_a_blank_text_is_refused_before_any_model_is_loaded(text: str) -> None:
    with pytest.raises(ConfigError, match="blank"):
        explain_text(EmbeddingSpec(model="no/where"), text)


def test_a_model_without_a_head_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"has no language-model head \(lm_head\.weight is missing\)"):
        explain_text(spec_of(tiny_model_dir), TEXT, device="cpu")


def test_a_layer_beyond_the_model_is_refused(with_head: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="the model has 4 layers"):
        explain_text(spec_of(with_head("llama")), TEXT, device="cpu", layer=5)


@pytest.fixture
def conf(with_head: Callable[..., Path], tmp_path: Path) -> Path:
    """A file with an `embedding` section alone."""
    path = tmp_path / "embedding.yaml"
    path.write_text(yaml.safe_dump({"embedding": {"model": str(with_head("llama")), "dtype": "float32"}, "runtime": {"device": "cpu"}}))
    return path


def test_the_command_prints_json(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", str(conf), TEXT, "embedding.templates=prompteol", "--top", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["text"] == clean_as_paper(TEXT)
    (template,) = printed["templates"]
    assert template["meta_task"] == "meaning"
    assert [set(word) for word in template["words"]] == [{"text", "token_id", "probability"}] * 3


def test_the_command_takes_a_jobs_file_too(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = yaml.safe_load(conf.read_text())
    conf.write_text(yaml.safe_dump({"source": {"table": "no/table", "key": ["id"]}, **blocks}))
    assert cli.run(["explain", str(conf), TEXT, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Next words after \"Two people play 'music' by the river.\""
    assert lines.count("text classification: in one word:") == 1
    assert len(lines) == 1 + 8 * (1 + 1 + 2)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["  "], 2, "the text to explain is blank"),
        ([TEXT, "--layer", "first"], 2, "--layer must be an integer index or a fraction"),
        ([TEXT, "--layer", "9"], 2, "the model has 4 layers"),
        ([TEXT, "embedding.model=no/where"], 2, "no such folder"),
        ([TEXT, "embeding.layer=1"], 2, "did you mean 'embedding'"),
        ([TEXT, "--plot", "figure.nonsense"], 2, "cannot draw"),
    ],
)
def test_a_wrong_call_prints_one_line(
    conf: Path, arguments: list[str], status: int, message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    assert cli.run(["explain", str(conf), *arguments]) == status
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_figure_without_matplotlib_names_the_extra(
    conf: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.run(["explain", str(conf), TEXT, "--plot", str(tmp_path / "words.png")]) == 2
    assert "pip install 'metaeol-udf[plots]'" in capfd.readouterr().err


def test_the_figure_is_a_picture(conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "new" / "words.png"
    assert cli.run(["explain", str(conf), "It costs $5 or $6", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_any_number_of_templates_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    templates = [TemplateWords(f"task {i}", f'{{text}} word {i}: "', (Word(" $x", 5, 0.25), Word("\n", 6, 0.125))) for i in range(5)]
    for n_templates in (1, 5):
        draw_explanation(Explanation("a", False, 4, 4, tuple(templates[:n_templates])), tmp_path / f"{n_templates}.svg")
        assert (tmp_path / f"{n_templates}.svg").stat().st_size > 1000


def test_a_terminal_shows_templates_side_by_side() -> None:
    templates = [TemplateWords("topic", f'{{text}}" Cue {i}: "', (Word(" [b]music", 5, 0.25),)) for i in range(5)]
    explanation = Explanation("some text", True, 2, 4, tuple(templates))
    output = io.StringIO()
    show_words(Console(file=output, force_terminal=True, color_system=None, width=80), explanation)
    printed = output.getvalue()
    assert printed.startswith('Next words after "some text" (trimmed to max_tokens), read from hidden state 2 of 4')
    assert printed.count("0.250 ␣[b]music") == 5
    assert any("Cue 0:" in line and "Cue 2:" in line for line in printed.splitlines())
    assert max(map(len, printed.splitlines()[1:])) <= 80
