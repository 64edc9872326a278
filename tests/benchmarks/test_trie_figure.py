from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from benchmarks.trie_figure import SuffixNode, draw_svg, make_figure, run_model
from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The new camera takes sharp pictures even at night."


def outputs(nodes: list[SuffixNode]) -> list[int]:
    return [found for node in nodes for found in ([node.template] if node.template is not None else []) + outputs(node.children)]


@pytest.mark.parametrize("name", ["metaeol", "metaeol-fast", "metaeol-separate"])
def test_the_figure_counts_what_the_encoder_computes(name: str, tiny_model_dir: Path) -> None:
    templates = TemplateSet.load(name)
    figure = make_figure(templates, AutoTokenizer.from_pretrained(tiny_model_dir), TEXT)
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=templates, dtype="float32", device="cpu")
    encoded = encoder.encode_rows([TEXT])
    assert figure.n_computed + figure.n_once == encoded.tokens_computed[0]
    assert figure.n_whole == encoded.tokens_computed[0] + encoded.tokens_saved[0]
    found = [template for branch in figure.branches for template in outputs(branch.suffixes)]
    assert sorted(found) == list(range(len(templates.templates))) == list(range(figure.n_templates))


@pytest.mark.parametrize(("name", "file"), [("metaeol", "trie.svg"), ("metaeol-fast", "trie-fast.svg")])
def test_the_figures_of_the_docs_are_current_and_whole(name: str, file: str, model_dir: Path) -> None:
    drawn = draw_svg(make_figure(TemplateSet.load(name), AutoTokenizer.from_pretrained(model_dir), TEXT))
    assert drawn == (ROOT / "docs" / "figures" / file).read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.slow
def test_the_figure_of_a_run_holds_the_encoders_states_and_words(model_dir: Path) -> None:
    spec = EmbeddingSpec(model=str(model_dir), templates="metaeol-fast")
    figure = run_model(spec, TEXT)
    assert figure.states is not None
    embedding = MetaEOLEncoder.from_pretrained(
        str(model_dir), templates=TemplateSet.load("metaeol-fast"), dtype="float32", device="cpu"
    ).encode([TEXT])[0]
    np.testing.assert_allclose(figure.states.mean(axis=0), embedding, atol=1e-5)
    drawn = draw_svg(figure)
    assert all(f"would say: {escape(word)}</text>" in drawn for word in figure.words)
    n_states = len(figure.states) + 1
    n_values = min(48, figure.states.shape[1])
    assert drawn.count("<rect") - draw_svg(replace(figure, states=None)).count("<rect") == n_states * n_values
    ElementTree.fromstring(drawn)


def test_the_figure_of_a_run_in_the_docs_is_of_the_same_prompts() -> None:
    root = ElementTree.parse(ROOT / "docs" / "figures" / "workflow.svg").getroot()
    words = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")).replace("<bos>", "")
    prefixes = {template.prefix.split(".")[0] for template in TemplateSet.load("metaeol").templates}
    assert len(prefixes) == 4
    assert all(" ".join(prefix.split()[:4]) in words for prefix in prefixes)
    assert words.count("would say: ") == 8
