from __future__ import annotations

from pathlib import Path

import pytest

from metaeol_udf.config import load_config
from metaeol_udf.errors import ConfigError
from metaeol_udf.spec import EmbeddingSpec

ROOT = Path(__file__).resolve().parents[2]
JOB = """
source: {table: some/table, key: [id]}
embedding: {column: v, model: some/model, layer: [1, 2], max_tokens: 64}
runtime: {device: cpu}
"""


def test_a_jobs_configuration_gives_the_spec_that_the_job_uses(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    assert EmbeddingSpec.load(path) == load_config(path).embedding == EmbeddingSpec(model="some/model", layer=(1, 2), max_tokens=64)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_that_ships_gives_its_spec(path: Path) -> None:
    assert EmbeddingSpec.load(path) == load_config(path).embedding


def test_a_jobs_configuration_may_begin_with_a_spec_file_beside_others(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("{model: m, templates: words.yaml, layer: 3}")
    (tmp_path / "words.yaml").write_text("{}")
    job = tmp_path / "job.yaml"
    job.write_text(f"embedding: {{spec: {tmp_path}/own.yaml, layer: -2}}")
    assert EmbeddingSpec.load(job) == EmbeddingSpec(model="m", templates=str(tmp_path / "words.yaml"), layer=-2)


def test_a_jobs_configuration_is_no_spec_file_to_begin_with(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"embedding: {{spec: {job}}}")
    with pytest.raises(ConfigError, match=r"unknown key \S*embedding"):
        EmbeddingSpec.load(job)


def test_an_embedding_block_without_settings_is_refused(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("embedding: null")
    with pytest.raises(ConfigError, match="embedding must be a mapping"):
        EmbeddingSpec.load(job)
