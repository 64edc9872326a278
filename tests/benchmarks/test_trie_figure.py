from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.trie_figure import SuffixNode, draw_svg, make_figure
from metaeol_udf import MetaEOLEncoder, TemplateSet

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The new camera takes sharp pictures even at night."


def outputs(nodes: list[SuffixNode]) -> int:
    return sum(node.is_output + outputs(node.children) for node in nodes)


@pytest.mark.parametrize("name", ["metaeol", "metaeol-fast", "metaeol-separate"])
def test_the_figure_counts_what_the_encoder_computes(name: str, tiny_model_dir: Path) -> None:
    templates = TemplateSet.load(name)
    figure = make_figure(templates, AutoTokenizer.from_pretrained(tiny_model_dir), TEXT)
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=templates, dtype="float32", device="cpu")
    encoded = encoder.encode_rows([TEXT])
    assert figure.n_computed + figure.n_once == encoded.tokens_computed[0]
    assert figure.n_whole == encoded.tokens_computed[0] + encoded.tokens_saved[0]
    assert sum(outputs(branch.suffixes) for branch in figure.branches) == len(templates.templates) == figure.n_templates


@pytest.mark.parametrize(("name", "file"), [("metaeol", "trie.svg"), ("metaeol-fast", "trie-fast.svg")])
def test_the_figures_of_the_docs_are_current_and_whole(name: str, file: str, model_dir: Path) -> None:
    drawn = draw_svg(make_figure(TemplateSet.load(name), AutoTokenizer.from_pretrained(model_dir), TEXT))
    assert drawn == (ROOT / "docs" / "figures" / file).read_text(encoding="utf-8")
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
