"""What is written in a configuration is what is used, or is refused by name: repeated keys, texts that look like numbers, odd YAML."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaeol_udf.config import PATHS, load_config, parse_config, read_overrides
from metaeol_udf.errors import ConfigError
from metaeol_udf.files import parse_yaml
from metaeol_udf.prompts import TemplateSet

JOB = "source: {table: data/tickets, key: [id]}\nembedding: {model: models/tiny}\n"


def write(folder: Path, more: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(JOB + more)
    return path


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("runtime: {wave_rows: 5}\nruntime: {device: cpu}\n", "the key 'runtime' stands twice, first in line 3"),
        ("runtime:\n  wave_rows: 5\n  wave_rows: 6\n", "the key 'wave_rows' stands twice, first in line 4"),
        ("spark: {conf: {spark.a: 1, spark.a: 2}}\n", "the key 'spark.a' stands twice, first in line 3"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, more))


def test_a_template_set_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.yaml"
    path.write_text("name: a\nname: b\ntemplates: [{meta_task: x, prompt: '{text} is'}]\n")
    with pytest.raises(ConfigError, match="the key 'name' stands twice"):
        TemplateSet.load(path)


def test_merge_keys_and_anchors_are_no_repetition(tmp_path: Path) -> None:
    more = "runtime: &base {wave_rows: 5}\nspark:\n  conf:\n    <<: {spark.a: '1'}\n    spark.b: 2\n"
    config = load_config(write(tmp_path, more))
    assert dict(config.spark.conf) == {"spark.a": "1", "spark.b": "2"}


def test_values_for_spark_are_what_is_written(tmp_path: Path) -> None:
    more = (
        "spark:\n  conf:\n    spark.password: 0123\n    spark.size: 1_000\n    spark.ratio: 1.50\n    spark.time: 12:30:00\n"
        "    spark.on: True\n    spark.day: 2020-01-01\n    spark.none: null\n    spark.empty: ''\n    spark.exp: 12e03\n"
    )
    assert dict(load_config(write(tmp_path, more)).spark.conf) == {
        "spark.password": "0123", "spark.size": "1_000", "spark.ratio": "1.50", "spark.time": "12:30:00", "spark.on": "true",
        "spark.day": "2020-01-01", "spark.empty": "", "spark.exp": "12e03",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["[a:b:1, c:d:2]", "{memory: 4g}"])
def test_lists_and_nested_names_are_no_values_for_spark(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"spark\.conf\.spark\.x must be one text, number or true/false \(a list with commas between"):
        load_config(write(tmp_path, f"spark: {{conf: {{spark.x: {value}}}}}\n"))


@pytest.mark.parametrize("value", ["0123", "pa#ss #word", "a: b", "", "null", "[x", "'quoted'", "true"])
def test_an_override_for_spark_is_text_as_it_stands(tmp_path: Path, value: str) -> None:
    config = load_config(write(tmp_path, ""), [f"spark.conf.spark.x.y={value}"])
    assert config.spark.conf["spark.x.y"] == value


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("source.where=tag = 'a' # note", "tag = 'a' # note"),
        ("source.where=!done", "!done"),
        ("source.where=`a b` = 1", "`a b` = 1"),
        ("source.where='x' = tag", "'x' = tag"),
        ('source.where="a b"', "a b"),
        ("source.where=null", None),
        ("embedding.revision=1234567", "1234567"),
        ("embedding.column=2024", "2024"),
        ("runtime.wave_rows=7", 7),
        ("embedding.layer=[1, 2]", [1, 2]),
        ("source.key=[id, lang]", ["id", "lang"]),
        ("source.key=auto", "auto"),
        ("source.text=[subject, body]", ["subject", "body"]),
        ("source.format_text={a}: {b}", "{a}: {b}"),
        ("source.options.sep=;", {"sep": ";"}),
        ("runtime.max_batch_tokens=auto", "auto"),
        ("runtime.mlflow=true", True),
    ],
)
def test_an_override_of_a_text_is_that_text_and_others_are_yaml(override: str, read: object) -> None:
    (section,) = read_overrides([override]).values()
    assert list(section.values()) == [read]


@pytest.mark.parametrize("block", ["models/tiny", "[a]"])
def test_an_override_in_a_section_that_is_no_mapping_says_so(tmp_path: Path, block: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"source: {{table: t, key: [id]}}\nembedding: {block}\n")
    with pytest.raises(ConfigError, match="embedding must be a mapping of settings, found"):
        load_config(path, ["embedding.layer=1"])


def test_an_override_below_a_value_of_spark_conf_says_so() -> None:
    with pytest.raises(ConfigError, match=r"spark\.conf must be a mapping of settings, found int"):
        read_overrides(["spark.conf=3", "spark.conf.a=1"])


@pytest.mark.parametrize(
    "odd",
    ["2020-99-99", "9" * 5000, "!!int x", "!!float x22", "!!timestamp x", "[" * 5000, "!!python/object:os.system x", "? [a]\n: 1", "\x00"],
    ids=["date", "digits", "int", "float", "timestamp", "brackets", "python", "key", "NUL"],
)
def test_odd_yaml_is_a_configuration_error_with_a_message(tmp_path: Path, odd: str) -> None:
    with pytest.raises(ConfigError, match=r"\S"):
        parse_config({**parse_yaml(JOB, "x"), "runtime": {"report": parse_yaml(odd, "the value"), "no such": 1}})
    with pytest.raises(ConfigError, match=r"\S"):
        load_config(write(tmp_path, f"runtime: {{wave_rows: {odd}}}\n"))


@given(st.text(max_size=60))
def test_no_text_makes_the_reader_fail_in_another_way(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_yaml(text, "a file")


def nested(levels: int) -> str:
    """YAML of a few hundred bytes in which each level stands nine times in the next one."""
    text = f"{JOB}spark:\n  conf:\n    a0: &a0 [{', '.join(['abc'] * 9)}]\n"
    return text + "".join(f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels))


def test_a_small_file_that_aliases_make_large_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(nested(30))
    with pytest.raises(ConfigError, match="written with aliases") as caught:
        load_config(path)
    assert len(str(caught.value)) < 400
    path.write_text("[" * 50_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_config(path)


def test_a_file_of_megabytes_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        load_config(write(tmp_path, "#" * 1_000_000))


def test_a_message_quotes_no_secret_and_nothing_long(tmp_path: Path) -> None:
    secret = "canarysecret8c4a6"
    wrong = {
        "a line that is no YAML": lambda: load_config(
            write(tmp_path, f"spark: {{conf: {{spark.hadoop.fs.s3a.secret.key: {secret} : x}}}}\n")
        ),
        "a list": lambda: load_config(write(tmp_path, f"spark: {{conf: {{spark.hadoop.fs.s3a.secret.key: [{secret}]}}}}\n")),
        "conf is a list": lambda: load_config(write(tmp_path, f"spark: {{conf: [{secret}]}}\n")),
        "an override without a section": lambda: read_overrides([f"secret={secret}"]),
        "a long value": lambda: load_config(write(tmp_path, f"runtime: {{device: [{', '.join(['abcdefgh'] * 5000)}]}}\n")),
    }
    for what, act in wrong.items():
        with pytest.raises(ConfigError) as caught:
            act()
        assert secret not in str(caught.value), what
        assert len(str(caught.value)) < 1500, what
    with pytest.raises(ConfigError, match=r"line 3, column \d+"):
        wrong["a line that is no YAML"]()


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "spec.yaml").write_text("model: ~/models/tiny\npostprocess: ~/post.safetensors\n")
    config = parse_config({
        "source": {"table": "~/tickets", "key": ["id"]}, "target": {"table": "~/vectors"}, "embedding": {"spec": "~/spec.yaml"},
        "runtime": {"report": "~/r.json", "report_page": "~/r.html", "prometheus": "~/r.prom", "model_cache": "~/cache"},
        "stream": {"checkpoint": "~/checkpoint"}, "evaluation": {"data": "~/data"}, "quality": {"pairs": "~/pairs.tsv"},
    })  # fmt: skip
    runtime, spec = config.runtime, config.embedding
    found = [
        config.source.table, config.target.table, spec.model, spec.postprocess, runtime.report, runtime.report_page, runtime.prometheus,
        runtime.model_cache, config.stream.checkpoint, config.evaluation.data, config.quality.pairs,
    ]  # fmt: skip
    names = (
        "tickets",
        "vectors",
        "models/tiny",
        "post.safetensors",
        "r.json",
        "r.html",
        "r.prom",
        "cache",
        "checkpoint",
        "data",
        "pairs.tsv",
    )
    assert found == [str(tmp_path / name) for name in names]


ALL_PATHS = sorted(PATHS | {"embedding.model", "embedding.spec", "embedding.templates", "embedding.postprocess"})


@pytest.mark.parametrize("setting", ALL_PATHS)
@pytest.mark.parametrize("path", ["s3a://AKIA:se/cret@lake/t", "https://me:canary@host/t", "//me:canary@host/t"])
def test_a_secret_in_a_path_is_refused_and_not_quoted(setting: str, path: str) -> None:
    section, key = setting.split(".")
    blocks: dict[str, dict[str, object]] = {"source": {"table": "a/b", "key": ["id"]}, "embedding": {"model": "m"}}
    blocks.setdefault(section, {})[key] = path
    if key == "path":
        blocks["source"]["table"] = None
    with pytest.raises(ConfigError, match=rf"{setting}: a path must not carry a user and a secret") as caught:
        parse_config(blocks)
    assert "cret" not in str(caught.value).replace("secret,", "")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["hdfs://host:8020/a@b:c", "abfss://box@account.net/t:u@v", "file:///a:b@c", "/a:b@c", "s3a://bucket/a:b@c"]
)
def test_a_path_without_a_secret_may_hold_its_characters(path: str) -> None:
    config = parse_config({"source": {"table": path, "key": ["id"]}, "embedding": {"model": path}})
    assert (config.source.table, config.embedding.model) == (path, path)


@pytest.mark.parametrize("setting", ALL_PATHS)
def test_a_variable_in_a_path_is_refused_by_name(setting: str) -> None:
    section, key = setting.split(".")
    blocks: dict[str, dict[str, object]] = {"source": {"table": "a/b", "key": ["id"]}, "embedding": {"model": "m"}}
    blocks.setdefault(section, {})[key] = "${HOME}/x.html" if key == "report_page" else "${HOME}/x.prom"
    if key == "path":
        blocks["source"]["table"] = None
    with pytest.raises(ConfigError, match=rf"^{setting} holds \$\{{\.\.\.\}}, but a configuration takes no variables"):
        parse_config(blocks)
