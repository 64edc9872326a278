"""A model that fails on some texts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.table_bench import POISON


@pytest.fixture(scope="session")
def poisoned_model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with NaN for one token: whatever text holds that has no embedding."""
    import torch
    from transformers import AutoTokenizer, LlamaModel

    folder = tmp_path_factory.mktemp("poisoned") / "model"
    shutil.copytree(tiny_model_dir, folder)
    tokens = [AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for text in (f"a {POISON} here", "a horse here")]
    only_here = set(tokens[0]) - set(tokens[1])
    model = LlamaModel.from_pretrained(folder)
    with torch.no_grad():
        model.embed_tokens.weight[sorted(only_here)] = torch.nan
    model.save_pretrained(folder)
    return str(folder)
