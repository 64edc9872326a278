"""The list `embeddings`: what each entry stands for, what wins, and what is refused, with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.config import JobConfig, effective_settings, load_config, load_configs, load_encoder_config, parse_config, parse_configs
from metaeol_udf.delta.one_call import as_settings
from metaeol_udf.errors import ConfigError

JOB = """\
source: {table: data/tickets, key: [id], where: id > 0}
target: {table: data/vectors}
embedding: {model: models/m, layer: 3}
embeddings:
  - text: subject
    column: subject_vector
  - text: [subject, body]
    format_text: "{subject}: {body}"
    column: body_vector
    layer: -2
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def alone(text: Any, column: str, layer: int, **source: Any) -> JobConfig:
    return parse_config({
        "source": {"table": "data/tickets", "key": ["id"], "where": "id > 0", "text": text, **source},
        "target": {"table": "data/vectors"}, "embedding": {"model": "models/m", "layer": layer, "column": column},
    })  # fmt: skip


def test_each_entry_is_a_configuration_of_its_own(job: Path) -> None:
    subject = alone("subject", "subject_vector", 3)
    body = alone(["subject", "body"], "body_vector", -2, format_text="{subject}: {body}")
    assert load_configs(job) == (subject, body)
    assert load_config(job, ["embedding.column=body_vector"]) == body
    assert load_encoder_config(job, ["embedding.column=subject_vector"]) == subject
    assert [config.embedding.layer for config in load_configs(job, ["embedding.layer=1"])] == [1, 1]
    assert [config.embedding.layer for config in as_settings(job, {"layer": 1})] == [1, 1]
    assert as_settings(job, {"column": "body_vector"}) == (body,)


def test_what_takes_one_column_asks_which(job: Path) -> None:
    for load in (load_config, load_encoder_config):
        with pytest.raises(ConfigError, match=r"embeddings has 2 columns \(subject_vector, body_vector\).*embedding\.column=NAME"):
            load(job)
    with pytest.raises(ConfigError, match=r"'body_vektor', which is no column of embeddings; did you mean 'body_vector'\?"):
        load_config(job, ["embedding.column=body_vektor"])


def test_an_entry_with_a_spec_takes_nothing_of_the_shared_embedding(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("model: models/other\nmax_tokens: 64\n")
    entries = [{"text": "a", "column": "x", "spec": str(tmp_path / "spec.yaml")}, {"text": "b", "column": "y"}]
    blocks = {"source": {"table": "t/t", "key": ["id"]}, "embedding": {"model": "m", "layer": 2}, "embeddings": entries}
    first, second = (config.embedding for config in parse_configs(blocks))
    assert (first.model, first.layer, first.max_tokens) == ("models/other", -1, 64)
    assert (second.model, second.layer, second.max_tokens) == ("m", 2, 512)
    assert [config.embedding.layer for config in as_settings(blocks, {"layer": 5})] == [5, 5]
    assert "layer" not in entries[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("column: body_vector", "column: subject_vector",
         "job.yaml:9:5: entry 2 of embeddings: column 'subject_vector' would write 'subject_vector', which entry 1 writes"),
        ("column: body_vector", "column: Subject_vector_error", "job.yaml:9:5: entry 2 of embeddings: column 'Subject_vector_error' would"),
        ("  - text: subject\n    column", "  - column", "job.yaml:5:5: entry 1 of embeddings: text is missing"),
        ("    column: subject_vector\n", "", "job.yaml:5:5: entry 1 of embeddings: column is missing"),
        ("    layer: -2", "    layr: -2", "job.yaml:10:5: entry 2 of embeddings: unknown key layr; did you mean 'layer'?"),
        ("    layer: -2", "    where: x", "job.yaml:10:5: entry 2 of embeddings: unknown key where; `where` belongs below `source:`"),
        ("    layer: -2", "    layer: high", "job.yaml:10:5: entry 2 of embeddings: embedding.layer must be an integer index"),
        ('"{subject}: {body}"', '"{subject}"', "job.yaml:7:5: entry 2 of embeddings: source.format_text '{subject}' has no {body}"),
        ("layer: 3}", "layer: 3, column: x}", "job.yaml:3:40: embedding.column stands in each entry of embeddings"),
        ("key: [id]", "key: [id], text: x", "job.yaml:1:42: source.text stands in each entry of embeddings"),
        ("key: [id]", "key: auto", "job.yaml:1:31: source.key=auto makes the key of the text"),
        ("    layer: -2", "    long_texts: passages", "job.yaml:7:5: entry 2 of embeddings: embedding.long_texts=passages needs a target"),
        ("where: id > 0}", "wehre: id > 0}", "job.yaml:1:42: unknown key source.wehre; did you mean 'where'?"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_with_its_line(job: Path, old: str, new: str, said: str) -> None:
    assert JOB.count(old) == 1
    job.write_text(JOB.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_configs(job)
    lines = str(caught.value).replace(f"{job.parent}/", "").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(said)


@pytest.mark.parametrize("entries", [[], {}, "subject", ["subject"], None, [{"text": "a", "column": 3}], [{"text": "a", "column": ""}]])
def test_what_is_no_list_of_entries_is_refused(entries: object) -> None:
    with pytest.raises(ConfigError, match="embeddings"):
        parse_configs({"source": {"table": "t/t", "key": ["id"]}, "embedding": {"model": "m"}, "embeddings": entries})


@pytest.mark.parametrize("text", ["first_error", ["body", "FIRST"]])
def test_a_text_that_another_entry_writes_is_refused_in_place_alone(text: object) -> None:
    entries = [{"text": "subject", "column": "first"}, {"text": text, "column": "second"}]
    blocks: dict[str, Any] = {"source": {"table": "t/t", "key": ["id"]}, "embedding": {"model": "m"}, "embeddings": entries}
    with pytest.raises(ConfigError, match=r"entry 2 of embeddings: text '\w+' is a column that entry 1 writes"):
        parse_configs(blocks)
    if isinstance(text, str):
        assert len(parse_configs({**blocks, "target": {"table": "t/v"}})) == 2


def test_the_settings_in_force_are_those_of_the_chosen_entry(job: Path) -> None:
    found = {each.name: each for each in effective_settings(job, ["embedding.column=body_vector", "embedding.max_tokens=64"])}
    shown = {name: (found[name].value, str(found[name].origin)) for name in found}
    assert shown["source.text"] == (["subject", "body"], f"{job}:7")
    assert shown["source.format_text"] == ("{subject}: {body}", f"{job}:8")
    assert shown["embedding.column"] == ("body_vector", f"{job}:9")
    assert shown["embedding.layer"] == (-2, f"{job}:10")
    assert shown["embedding.model"] == ("models/m", f"{job}:3")
    assert shown["embedding.max_tokens"] == (64, "override")
