"""Our encoder under mteb's own tasks, on data that is made here: no hub is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.evaluation import score_sts
from metaeol_udf.quality.mteb_model import MtebModel

mteb = pytest.importorskip("mteb")

ANIMALS = ("cat", "dog", "horse", "bird", "fish", "mouse")
PLACES = ("garden", "house", "river", "street")
SENTENCES = [f"The {animal} sleeps in the {place}." for animal in ANIMALS for place in PLACES]
OTHERS = [*SENTENCES[5:], *SENTENCES[:5]]  # no pair stands in both orders: equal cosines would be ranked by their rounding
GOLD = [float(x) for x in np.random.default_rng(0).uniform(0, 5, len(SENTENCES)).round(1)]

DESCRIPTION = {
    "description": "made here",
    "reference": None,
    "dataset": {"path": "none/made-here", "revision": "1"},
    "category": "t2t",
    "modalities": ["text"],
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2024-01-01", "2024-01-01"),
    "domains": [],
    "task_subtypes": [],
    "license": "cc-by-4.0",
    "annotations_creators": "derived",
    "dialect": [],
    "sample_creation": "created",
    "bibtex_citation": "",
}


def sts_task() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    class MadeSTS(AbsTaskSTS):
        metadata = TaskMetadata(name="MadeSTS", type="STS", main_score="cosine_spearman", **DESCRIPTION)

        def load_data(self, **_settings: Any) -> None:
            columns = {"sentence1": SENTENCES, "sentence2": OTHERS, "score": GOLD}
            self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
            self.data_loaded = True

    return MadeSTS()


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> MetaEOLEncoder:
    return MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")


def test_it_is_an_encoder_by_mtebs_protocol(encoder: MetaEOLEncoder) -> None:
    from mteb.models import EncoderProtocol

    model = MtebModel(encoder)
    assert isinstance(model, EncoderProtocol)
    assert model.mteb_model_meta.name == "metaeol/tiny-metaeol"
    assert model.mteb_model_meta.embed_dim == 32
    assert len(model.mteb_model_meta.revision) == 16


def test_mtebs_own_sts_task_finds_our_score(encoder: MetaEOLEncoder) -> None:
    result = mteb.evaluate(MtebModel(encoder), sts_task(), cache=None)
    (scores,) = result.task_results[0].scores["test"]
    expected = score_sts(encoder.encode(SENTENCES), encoder.encode(OTHERS), np.array(GOLD)).all
    assert 100 * scores["cosine_spearman"] == pytest.approx(expected, abs=0.01)
    assert 100 * scores["spearman"] == pytest.approx(expected, abs=0.01)
