"""Mistakes that people make in a configuration: where each one is, what was meant, and all of them at once."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from metaeol_udf.config import load_config, parse_config
from metaeol_udf.errors import ConfigError, SettingsError
from metaeol_udf.spec import EmbeddingSpec

GOOD = "source: {table: ./tickets, key: [id]}\nembedding: {model: models/m}\n"


def refused(folder: Path, text: str, *overrides: str) -> list[str]:
    """Return the lines of the message about a configuration, without the folder."""
    path = folder / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load_config(path, overrides)
    return str(refusal.value).replace(f"{folder}/", "").splitlines()


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
source:
  tabel: tickets
  key: [id]
target:
  column: vector
embedding:
  model: m
  batch_size: 32
  text: body
  dtype: half
runtime:
  device: gpu
  wave_rows: 0
"""
    assert refused(tmp_path, text) == [
        "job.yaml:1:1: source.table is missing (for other sources: source.path of files, or source.query)",
        "job.yaml:2:3: unknown key source.tabel; did you mean 'table'?",
        "job.yaml:5:3: unknown key target.column; `column` belongs below `embedding:`",
        "job.yaml:8:3: unknown key embedding.batch_size; did you mean 'runtime.max_batch_tokens'?",
        "job.yaml:9:3: unknown key embedding.text; `text` belongs below `source:`",
        "job.yaml:10:3: embedding.dtype must be one of auto, float32, bfloat16, float16, found 'half'; did you mean 'float16'?",
        "job.yaml:12:3: runtime.device must be auto, cpu, cuda or cuda:N, found 'gpu'; did you mean 'cuda'?",
        "job.yaml:13:3: runtime.wave_rows must be a positive integer, found 0",
    ]


def test_settings_without_their_sections_are_told_where_they_belong(tmp_path: Path) -> None:
    assert refused(tmp_path, "table: t\nkey: [id]\ntext: body\nmodel: m\n") == [
        "job.yaml:1:1: unknown section 'table'; `table` belongs below `source:` or `target:`",
        "job.yaml:2:1: unknown section 'key'; `key` belongs below `source:`",
        "job.yaml:3:1: unknown section 'text'; `text` belongs below `source:`",
        "job.yaml:4:1: unknown section 'model'; `model` belongs below `embedding:`",
    ]


def test_a_spec_file_with_a_mistake_is_still_a_spec_file(tmp_path: Path) -> None:
    assert refused(tmp_path, "model: m\ntemplatez: metaeol\n", "source.table=./t", "source.key=id") == [
        "job.yaml: unknown key job.yaml.templatez; did you mean 'templates'?"
    ]


def test_a_mistake_on_the_command_line_has_no_place_in_the_file(tmp_path: Path) -> None:
    assert refused(tmp_path, GOOD, "runtime.device=gpu") == [
        "runtime.device must be auto, cpu, cuda or cuda:N, found 'gpu'; did you mean 'cuda'?"
    ]
    assert refused(tmp_path, GOOD, "batch_size=3") == [
        "override 'batch_size' must have the form section.key=value; did you mean 'runtime.max_batch_tokens'?"
    ]
    assert refused(tmp_path, GOOD, "world")[0].endswith("a query of several words stands in quotes")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; `metaeol init TABLE` drafts one"),
        ("source:\n  table: a\n key: [id]\n", "line 3, column 2: .*this line begins with 1 spaces, the line before with 2"),
        ("source:\n\ttable: a\n", "line 2, column 1: a tab; YAML is indented with spaces"),
        ("source: {table: '${HOME}/t', key: [id]}\nembedding: {model: m}\n", r"job\.yaml:1:10: source\.table holds \$\{\.\.\.\}"),
    ],
)
def test_a_file_that_is_not_yaml_says_where_and_why(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is a folder, not a configuration; `metaeol init"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=f"there is no such file .looked for as {tmp_path}/job.yaml"):
        load_config("job.yaml")


def test_a_table_or_file_of_texts_is_told_from_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vectors").mkdir()
    (tmp_path / "tickets.csv").write_text("id,body\n1,a\n")
    for name, command in (("vectors", "`metaeol init ./vectors`"), ("./vectors", "`metaeol init ./vectors`")):
        with pytest.raises(ConfigError, match=f"{name} is a folder, not a configuration; {command}"):
            load_config(name)
    with pytest.raises(ConfigError, match=r"tickets\.csv is a file of csv, not a configuration; `metaeol init tickets\.csv` drafts one"):
        load_config("tickets.csv")


def test_a_mapping_has_no_places_and_all_its_mistakes() -> None:
    with pytest.raises(SettingsError) as refusal:
        parse_config({"source": {"table": "t", "key": ["id"], "were": "true"}, "embedding": {"model": "m", "max_tokens": -1, "layer": "x"}})
    assert [problem.setting for problem in refusal.value.problems] == ["embedding.layer", "embedding.max_tokens", "source.were"]
    assert "did you mean 'where'?" in str(refusal.value)


def test_an_error_about_settings_survives_pickle() -> None:
    with pytest.raises(SettingsError) as refusal:
        EmbeddingSpec(model="", dtype="gpu")
    copy = pickle.loads(pickle.dumps(refusal.value))
    assert (str(copy), copy.problems) == (str(refusal.value), refusal.value.problems)
