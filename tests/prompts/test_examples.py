"""The template sets and specs that ship as examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from metaeol_udf import EmbeddingSpec, TemplateSet
from metaeol_udf.prompts.checks import check_templates
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.spec import output_layers

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "conf/templates").glob("*.yaml"))
SPECS = {"llama-3.1-8b": (32, 27), "mistral-7b": (32, 27), "qwen2.5-7b": (28, 24), "gemma-2-9b": (42, 36)}


@pytest.fixture(scope="session")
def smollm2(model_dir: Path) -> PromptTokenizer:
    return PromptTokenizer(transformers.AutoTokenizer.from_pretrained(model_dir))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_cut_and_cost_less_than_separate_prefixes(path: Path, smollm2: PromptTokenizer) -> None:
    templates = TemplateSet.load(path)
    assert templates.name == path.stem
    check = check_templates(templates, smollm2)
    separate = check_templates(TemplateSet.load("metaeol-separate"), smollm2)
    assert (check.problems, check.warnings) == ((), ())
    assert check.tokens is not None
    assert separate.tokens is not None
    assert check.tokens.is_cut
    assert check.tokens.n_text_passes == check.n_prefixes <= 4
    assert check.tokens.computed < separate.tokens.computed


def test_the_examples_are_these() -> None:
    assert [path.stem for path in EXAMPLES] == ["logs", "multilingual", "product-reviews", "scientific-abstracts", "support-tickets"]


@pytest.mark.parametrize("name", SPECS)
def test_specs_from_the_literature_can_be_read(name: str) -> None:
    path, (n_layers, layer) = ROOT / "conf/specs" / f"{name}.yaml", SPECS[name]
    spec = EmbeddingSpec.load(path)
    assert (spec.model, spec.templates, spec.dtype) == (f"models/{name}", "metaeol", "auto")
    assert output_layers(spec.layer, n_layers) == (layer,)
    comment = path.read_text(encoding="utf-8")
    assert f"{n_layers} layers it is layer {layer}" in comment
    assert "Not measured here" in comment
