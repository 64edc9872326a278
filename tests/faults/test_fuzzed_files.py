"""Every reader of a file or a name that comes from outside, with ten thousand damaged ones: it reads them, or refuses them by name.

Only errors of our own come out, each of the kind that the reader promises. The message names the file or the setting, is short and quotes
no text. What was found is kept in `FOUND`, and runs without luck.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutations import RAW_YAML, edited, json_files, names, yaml_files
from pyspark.sql import DataFrame
from safetensors.numpy import save

from metaeol_udf.cli.vectors import search
from metaeol_udf.config import load_config, load_encoder_config, setting_names
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.select.proof import Proof
from metaeol_udf.delta.tables.commits import Commit
from metaeol_udf.delta.tables.refs import parse_table
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.delta.write.run_lock import Holder
from metaeol_udf.doctor.model import check_code, check_files, check_pinned, check_positions, check_runner
from metaeol_udf.encoder.checkpoint.architectures import check_quantization
from metaeol_udf.encoder.checkpoint.files import ADAPTER, check_weights, model_shape
from metaeol_udf.encoder.checkpoint.location import model_folder
from metaeol_udf.encoder.checkpoint.manifest import MANIFEST, verify_folder, write_manifest
from metaeol_udf.encoder.checkpoint.prepare import PrepareOptions, prepare_model
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.encoder.vectors.output import PostProcessing, finish_vectors
from metaeol_udf.encoder.vectors.postprocess import check_postprocess, load_postprocess
from metaeol_udf.errors import ConfigError, InputError, MetaEOLError, ModelFilesError
from metaeol_udf.evaluation.data import load_tasks, read_pairs
from metaeol_udf.evaluation.labelled_pairs import load_pairs
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.report_page import read_report, render_page
from metaeol_udf.spec import EmbeddingSpec, output_layers

pytestmark = pytest.mark.timeout(900)  # a reader that hangs ends here

ROOT = Path(__file__).resolve().parents[2]
CANARY = "canarytext7f3"  # stands in texts, which no message quotes
SIZE = 4  # of the vectors of the model that these files are about
SECTIONS = r"\b(source|target|embedding|runtime|stream|quality|spark|estimate|evaluation)\b"
#: Characters of a message beside the path.
MOST_CHARACTERS = 1_300
N_OVERRIDES = 500


@dataclass(frozen=True)
class Reader:
    """A reader of one kind of file.

    Attributes:
        file: The file's place below the folder that the test makes.
        read: Reads it, and uses what it read as far as that goes without a model or Spark.
        contents: Makes damaged files.
        valid: Files that it must read.
        errors: What it may raise.
        named: What a message must name, where it is not the file.
        examples: How many damaged files a run tries.
    """

    file: str
    read: Callable[[Path], object]
    contents: st.SearchStrategy[bytes]
    valid: Sequence[bytes]
    errors: tuple[type[MetaEOLError], ...] = (ConfigError,)
    named: str = ""
    examples: int = 400


def ours_or_nothing(act: Callable[[], object], errors: tuple[type[MetaEOLError], ...], named: str, quoted: str = "") -> str | None:
    """Do something; an error must be one of these, and its message must be what the module says. Gives the message.

    What the user wrote, `quoted`, may be as long as it is.
    """
    try:
        act()
    except errors as error:
        message = str(error)
        assert re.search(named, message), message[:2_000]
        assert len(message) <= MOST_CHARACTERS + 2 * len(named) + 2 * len(quoted), message[:2_000]
        assert CANARY not in message
        return message
    return None


# ---- configuration, spec, templates


CONFIG = ROOT / "conf" / "embed.yaml"
SPEC = ROOT / "conf" / "specs" / "smollm2-135m.yaml"
TEMPLATES = sorted((ROOT / "conf" / "templates").glob("*.yaml"))
SETTINGS: dict[str, Any] = {
    "source": {"table": "a/b", "key": ["id", "day"], "text": "text", "where": "lang = 'de'"},
    "target": {"table": "c/d", "deleted": "keep", "max_deleted_fraction": 0.5},
    "embedding": {
        "model": "m", "layer": [1, 0.5], "templates": "metaeol", "postprocess": "p.safetensors", "truncate_dim": 8, "spec": "spec.yaml",
    },
    "runtime": {
        "device": "cuda:1", "max_batch_tokens": 100, "task_gpus": 1, "mlflow": True, "report_page": "r.html", "prometheus": "p.prom",
    },
    "stream": {"trigger": "30 seconds", "start": 5},
    "quality": {"gate": True, "pairs": "pairs.tsv"},
    "evaluation": {"data": "data", "tasks": ["a", "b"], "limit": 5},
    "estimate": {"price_per_hour": 2},
    "spark": {"master": "local[2]", "conf": {"spark.a.b": 1, "spark.c": "x", "spark.d": True}},
}  # fmt: skip
WITHOUT_FILES = SETTINGS | {"embedding": {name: value for name, value in SETTINGS["embedding"].items() if name != "spec"}}
SPEC_TREE: dict[str, Any] = {
    "model": "~/m", "revision": "0" * 40, "templates": "set.yaml", "layer": -1, "dtype": "bfloat16", "quantization": "int8",
    "postprocess": "p", "normalize": True, "truncate_dim": 8, "values": "float32", "per_template": False, "max_tokens": 64,
    "long_texts": "mean", "passage": {"tokens": 32, "overlap": 8, "by": "token"},
}  # fmt: skip
SET = {"name": "mine", "text_cleanup": "none", "templates": [{"meta_task": "topic", "prompt": 'This: "{text}" means "'}] * 2}


def read_config(path: Path) -> None:
    for load in (load_config, load_encoder_config):
        config = load(path)
        hash(config.embedding)
        assert config.embedding.fingerprint()
        assert all(isinstance(value, str) for value in config.spark.conf.values())


def read_spec(path: Path) -> None:
    assert EmbeddingSpec.load(path).fingerprint()


def read_set(path: Path) -> None:
    found = TemplateSet.load(path)
    assert len(found.digest()) == 64
    path.with_name("again.yaml").write_text(found.to_yaml(), encoding="utf-8")
    assert TemplateSet.load(path.with_name("again.yaml")).templates == found.templates
    for template in found.templates:
        assert CANARY in found.fill(template, CANARY)


# ---- a model's folder


def tensors() -> bytes:
    return save({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)}, {"format": "pt"})


def make_model(folder: Path) -> Path:
    """A folder that looks like a model's, which nothing here loads."""
    folder.mkdir(parents=True)
    for name, content in MODEL.items():
        (folder / name).write_bytes(content)
    return folder


MODEL_CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": SIZE, "max_position_embeddings": 600, "is_encoder_decoder": False,
    "architectures": ["LlamaForCausalLM"], "auto_map": {"AutoModel": "modeling_x.X"},
    "text_config": {"model_type": "qwen3", "n_layer": 3, "n_embd": SIZE},
}  # fmt: skip
MODEL = {
    "config.json": json.dumps(MODEL_CONFIG).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "model.safetensors": tensors(),
}
MANIFEST_TREE = {
    "format_version": 1, "source": "here", "dtype": "float32",
    "files": {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in MODEL.items()},
}  # fmt: skip


def read_model_config(path: Path) -> None:
    folder = path.parent
    spec = EmbeddingSpec(model=str(folder), layer=(0.5, -1), quantization="int8")
    for check in (lambda: check_code(folder), lambda: check_runner(spec, folder), lambda: check_positions(spec, folder)):
        assert len(check().found) < MOST_CHARACTERS
    n_layers, size = model_shape(folder)
    assert n_layers > 0
    assert size > 0
    output_layers(spec.layer, n_layers)
    check_quantization(spec, folder)


def read_manifest_of(path: Path) -> None:
    folder = path.parent
    assert check_pinned(EmbeddingSpec(model=str(folder)), folder)
    verify_folder(folder)


def read_weights(path: Path) -> None:
    folder = path.parent
    assert check_files(folder)
    check_weights(folder)


def read_index(path: Path) -> None:
    weights = path.parent / "model.safetensors"
    if weights.exists():
        weights.rename(path.parent / "model-00001-of-00001.safetensors")
    read_weights(path)


def read_whole(path: Path) -> None:
    resolve_local(EmbeddingSpec(model=str(path.parent)))


def read_adapter(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        prepare_model(str(path.parent), path.parent.parent / "made", PrepareOptions())


def read_reference(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(path.parents[2]))
        model_folder("a/b")


def with_length(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors()[8 + struct.unpack("<Q", tensors()[:8])[0] :]


def header_of(content: bytes) -> Any:
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


# ---- post-processing


def post() -> PostProcessing:
    wide = np.eye(SIZE, dtype=np.float32)
    made_for = {"templates": "t", "layer": "2", "model_hash": "h"}
    return PostProcessing(wide[0], wide[1] + 1, wide[:2], wide[:, :3], made_for)


def bfloat16() -> bytes:
    """Numbers that numpy does not have."""
    header = json.dumps({"mean": {"dtype": "BF16", "shape": [SIZE], "data_offsets": [0, 2 * SIZE]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(2 * SIZE)


def read_post(path: Path) -> None:
    spec = EmbeddingSpec(model="m", postprocess=str(path))
    found = load_postprocess(spec)
    assert found is not None
    check_postprocess(found, SIZE, {"templates": "t", "layer": "2", "model_hash": "h"})
    with np.errstate(all="ignore"):
        assert finish_vectors(np.ones((2, SIZE), np.float32), spec, found).shape == (2, found.dim)
    assert found.dim > 0


def posts() -> st.SearchStrategy[bytes]:
    valid = post().to_bytes()
    body = valid[8 + struct.unpack("<Q", valid[:8])[0] :]
    headers = json_files([header_of(valid)])
    numbers = st.sampled_from(
        [np.zeros(()), np.zeros(0), np.full(SIZE, 1e300), np.zeros(SIZE, np.int64), np.zeros(SIZE, bool), np.zeros(SIZE, np.float16)]
    )
    shapes = st.sampled_from(
        [np.zeros((SIZE, 0), np.float32), np.zeros((0, SIZE)), np.zeros((1, 1, SIZE)), np.zeros((SIZE, SIZE), np.int8)]
    )
    files = st.fixed_dictionaries({"mean": numbers}, optional={"scale": numbers, "removed": shapes, "matrix": shapes, "other": shapes})
    return st.one_of(edited([valid]), headers.map(lambda header: struct.pack("<Q", len(header)) + header + body), files.map(save))


# ---- labelled data


def rows(*lines: str) -> bytes:
    return "\n".join([*lines, ""]).encode()


STS = rows("subset\tsentence1\tsentence2\tscore", *(f"a\t{CANARY} {n}\tother {CANARY}\t{n / 4}" for n in range(4)))
PAIRS = rows("sentence1\tsentence2\tscore", *(f"{CANARY} {n}\tother {CANARY}\t{n}" for n in range(4)))
CLASSES = rows("split\tlabel\ttext", *(f"all\t{n % 2}\t{CANARY} {n}" for n in range(4)))
KEYS = rows("id1\tid2\tscore", *(f"{CANARY}{n}\t{CANARY}\t{n}" for n in range(25)))
FIELDS = [
    b"\t",
    b"\n",
    b"\r\n",
    b"nan",
    b"1e999",
    b"-1e308",
    b"1e308",
    b"",
    b" ",
    b"\x00",
    b"train",
    b"test",
    b"\xff",
    b"1_0",
    "１".encode(),
]


@st.composite
def tables(draw: st.DrawFn, seed: bytes) -> bytes:
    """Damage a table: at any byte, or one to three of its fields and lines."""
    if draw(st.booleans()):
        return draw(edited([seed]))
    lines = [line.split(b"\t") for line in seed.split(b"\n")]
    for _ in range(draw(st.integers(1, 3))):
        line = lines[draw(st.integers(0, len(lines) - 1))]
        line[draw(st.integers(0, len(line) - 1))] = draw(st.sampled_from(FIELDS))
        if draw(st.booleans()):
            lines.append(draw(st.sampled_from(lines)))
    return b"\n".join(b"\t".join(line) for line in lines)


def zipped(seed: bytes) -> st.SearchStrategy[bytes]:
    """Damage a zipped table, outside or inside."""
    return st.one_of(edited([gzip.compress(seed, mtime=0)]), tables(seed).map(lambda content: gzip.compress(content, mtime=0)))


def read_tasks(path: Path) -> None:
    for task in load_tasks(path.parent.parent, limit=2):
        assert task.name


# ---- run reports, proofs, commits


def report_tree() -> dict[str, Any]:
    """A report with something in every field."""
    report = Report(
        "20261122T101112-0a1b2c3d", "f00dfeedf00dfeed", "done", rows_selected=100, rows_embedded=60, rows_skipped=38, rows_failed=2
    )
    report.failures, report.seconds, report.delta_versions = {"null_text": 2}, {"embed": 30.0, "total": 40.0}, {"source": 3, "target": 7}
    report.migration = {"rows_of_other_specs": 10, "from": ["abc"], "to": "def"}
    report.quality = {"verdict": "passed", "reasons": ["x"], "old": {"score": 0.5}, "new": {"score": None}}
    report.tokens_computed, report.tokens_saved, report.unique_texts = 300, 700, 60
    report.runner, report.looked_at, report.device_busy, report.path_reasons = "trie", "all rows", 0.9, ["why"]
    report.batches_by_path, report.device_s, report.device_span_s = {"cells": 3}, 9.0, 10.0
    report.log_wave(1000.0, 10.0, 40, 200, 0)
    report.log_wave(1010.0, 20.0, 20, 100, 2)
    return report.as_dict()


def read_run_report(path: Path) -> None:
    page = render_page(read_report(path), "a title")
    assert page.endswith(("</html>\n", "</html>"))
    page.encode("utf-8", errors="replace")


PROOF = {
    "run_id": "20261122T101112-0a1b2c3d", "source_id": "a", "source_version": 3, "target_id": "b", "target_version": 7, "columns": "[]",
    "rows_selected": 100, "quarantine_id": None, "quarantine_version": -1,
}  # fmt: skip


def read_proof(path: Path) -> None:
    found = Proof.parse(path.read_text(encoding="utf-8", errors="replace"))
    if found is not None:
        assert all(type(getattr(found, name)) in (type(value), str, type(None)) for name, value in PROOF.items())
        assert all(-1 <= number < 2**63 for number in vars(found).values() if isinstance(number, int))


COMMITS = [
    {"commitInfo": {"operation": "MERGE", "userMetadata": "metaeol_udf a b c"}},
    {"add": {"path": "a.parquet", "dataChange": True, "deletionVector": {"cardinality": 3}}},
    {"remove": {"path": "a.parquet", "dataChange": True, "deletionVector": None}},
    {"metaData": {"id": "x"}},
]


def read_commit(path: Path) -> None:
    try:
        found = Commit.parse(7, path.read_text(encoding="utf-8", errors="replace"))
    except ValueError:  # it is no commit, as its caller knows
        return
    assert found.operation is None or isinstance(found.operation, str)
    assert found.user_metadata is None or isinstance(found.user_metadata, str)


def commits() -> st.SearchStrategy[bytes]:
    lines = json_files(COMMITS).map(lambda line: line.replace(b"\n", b" "))
    whole = b"\n".join(json.dumps(action).encode() for action in COMMITS)
    return st.one_of(st.lists(lines, min_size=1, max_size=3).map(b"\n".join), edited([whole]))


def read_table(name: str) -> None:
    found = parse_table(name, "source.table")
    assert found.is_path or len(found.name.split(".")) <= 3
    assert found.is_path == found.beside("journal").is_path
    assert "`" not in found.name


def read_paths(name: str) -> None:
    spec = EmbeddingSpec.from_mapping({"model": name or "m", "templates": name or "t", "postprocess": name or "p"})
    load_postprocess(spec)


def read_holder(name: str) -> None:
    for text in (name, f"run~machine~{name}~1", f"run~machine~1~{'9' * len(name)}"):
        found = Holder.parse(text)
        assert found is None or Holder.parse(found.name) == found


def read_queries(path: Path) -> None:
    search(path.with_name("no.yaml"), query=None, queries=path)


READERS: dict[str, Reader] = {
    "configuration": Reader(
        "job.yaml", read_config, yaml_files([SETTINGS, WITHOUT_FILES], [CONFIG.read_bytes(), json.dumps(SETTINGS).encode()]),
        [CONFIG.read_bytes(), json.dumps(WITHOUT_FILES).encode()], named=rf"{SECTIONS}|the spec file", examples=1_200,
    ),
    "spec": Reader(
        "spec.yaml", read_spec, yaml_files([SPEC_TREE, {"embedding": SPEC_TREE}], [SPEC.read_bytes()]), [SPEC.read_bytes()],
        named=rf"{SECTIONS}|the spec file", examples=700,
    ),
    "template set": Reader(
        "set.yaml", read_set, yaml_files([SET], [path.read_bytes() for path in TEMPLATES]), [path.read_bytes() for path in TEMPLATES],
        examples=700,
    ),
    "config.json": Reader(
        "model/config.json", read_model_config, json_files([MODEL_CONFIG]), [MODEL["config.json"].replace(b"qwen3", b"llama")],
        (ModelFilesError, ConfigError), named=r"config\.json|model/?\b", examples=700,
    ),
    "manifest": Reader(
        f"model/{MANIFEST}", read_manifest_of, json_files([MANIFEST_TREE]), [json.dumps(MANIFEST_TREE).encode()], (ModelFilesError,),
        named="model/", examples=700,
    ),
    "index of weights": Reader(
        "model/model.safetensors.index.json", read_index,
        json_files([{"metadata": {"total_size": 1}, "weight_map": dict.fromkeys("abc", "model-00001-of-00001.safetensors")}]),
        [json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()], (ModelFilesError,), named="model/",
    ),
    "weights": Reader(
        "model/model.safetensors", read_weights, st.one_of(edited([tensors()]), json_files([header_of(tensors())]).map(with_length)),
        [tensors()], (ModelFilesError,), examples=600,
    ),
    "tokenizer": Reader(
        "model/tokenizer_config.json", read_whole, json_files([{"tokenizer_class": "X", "added_tokens_decoder": {"1": {"content": "a"}}}]),
        [b"{}"], (ModelFilesError, ConfigError), named="model", examples=100,
    ),
    "adapter": Reader(
        f"adapter/{ADAPTER}", read_adapter, json_files([{"base_model_name_or_path": "/no/such/place", "peft_type": "LORA", "r": 8}]), [],
        (ModelFilesError, ConfigError), named=r"adapter|source", examples=200,
    ),
    "reference of the hub's cache": Reader(
        "hub/models--a--b/refs/main", read_reference, edited([b"0" * 40, b"snapshots"]), [b"0" * 40], (ConfigError,), named="'a/b'",
        examples=200,
    ),
    "post-processing": Reader("post.safetensors", read_post, posts(), [post().to_bytes()], named=r"embedding\.postprocess", examples=700),
    "pairs of sentences": Reader("pairs.tsv", read_pairs, tables(PAIRS), [PAIRS], examples=300),
    "pairs of keys": Reader("keys.tsv", lambda path: load_pairs(path, ["id"]), tables(KEYS), [KEYS], examples=300),
    "zipped pairs of keys": Reader("keys.tsv.gz", lambda path: load_pairs(path, ["id"]), zipped(KEYS), [gzip.compress(KEYS)], examples=200),
    "tasks of pairs": Reader("data/sts/a.tsv", read_tasks, tables(STS), [STS], examples=300),
    "zipped tasks of pairs": Reader("data/sts/a.tsv.gz", read_tasks, zipped(STS), [gzip.compress(STS)], examples=200),
    "tasks of classes": Reader("data/transfer/a.tsv", read_tasks, tables(CLASSES), [CLASSES], examples=300),
    "run report": Reader(
        "report.json", read_run_report, json_files([report_tree()]), [json.dumps(report_tree()).encode()], (InputError,), examples=1_200,
    ),
    "proof": Reader("proof.json", read_proof, json_files([PROOF]), [json.dumps(PROOF).encode(), b""], (), examples=400),
    "commit": Reader("7.json", read_commit, commits(), [b"\n".join(json.dumps(action).encode() for action in COMMITS)], (), examples=300),
    "queries": Reader("queries.txt", read_queries, edited([b"one query\nanother\n"]), [], (ConfigError, InputError), r"no\.yaml", 100),
}  # fmt: skip

#: Names and texts on a command line or in a setting: what takes them, and what it may raise.
NAMES: dict[str, tuple[Callable[[str], object], tuple[type[MetaEOLError], ...], str, int]] = {
    "a table": (read_table, (InputError,), r"source\.table", 300),
    "a configuration's file": (load_config, (ConfigError,), rf"configuration|{SECTIONS}", 100),
    "a spec's file": (EmbeddingSpec.load, (ConfigError,), rf"the spec file|{SECTIONS}", 100),
    "a spec in a setting": (lambda name: EmbeddingSpec.from_mapping({"spec": name}), (ConfigError,), "spec", 100),
    "a template set": (TemplateSet.load, (ConfigError,), "template", 100),
    "paths of a spec": (read_paths, (ConfigError,), "embedding", 100),
    "a model": (lambda name: resolve_local(EmbeddingSpec(model=name)), (ConfigError, ModelFilesError), "model", 100),
    "a revision": (lambda name: model_folder("a/b", name), (ConfigError,), r"embedding\.model", 100),
    "a file of pairs": (lambda name: load_pairs(name, ["id"]), (ConfigError,), r"quality\.pairs", 100),
    "a folder of tasks": (load_tasks, (ConfigError,), "no tasks in", 100),
    "a report's file": (read_report, (InputError,), "run report", 100),
    "a condition with a variable": (lambda text: filtered(cast("DataFrame", None), f"${{{text}"), (InputError,), r"source\.where", 100),
    "a lock's file": (read_holder, (), "", 100),
}

#: Settings and what stands behind the `=` of an override.
overrides = st.tuples(
    st.one_of(st.sampled_from(setting_names()), st.sampled_from(["spark.conf.a.b", "spark.conf", "", ".", "x", "source.", "x.y"]), names),
    st.one_of(st.sampled_from(RAW_YAML), names),
).map("=".join)

#: What was found by these tests, or by hand before: the reader, the smallest file, and words of the message.
FOUND: list[tuple[str, str | bytes, str]] = [
    ("spec", "spec: spec.yaml", "names itself"),
    ("spec", "embedding: {spec: spec.yaml}", r"embedding\.spec|unknown key"),
    ("spec", "model: m\nrevision: !!bool x", "line 2, column 11: the value is not of the type bool"),
    ("spec", "model: m\nrevision: !!int ''", "not of the type int"),
    ("spec", "model: m\nrevision: " + "1:" * 300 + "1.0", "not of the type float"),
    ("spec", "!!set a", "expected a mapping node"),
    ("spec", "model: m\nmax_tokens: 0x" + "f" * 9_000, "the number is too large"),
    ("spec", "? 0x" + "f" * 9_000 + "\n: 1", "the number is too large"),
    ("spec", 'model: "\\ud800"', "half a character"),
    ("spec", 'spec: "a\\0b"', "a path without NUL"),
    ("spec", 'model: m\npostprocess: "~\\0"', "a path without NUL"),
    ("spec", "model: m\ntemplates: " + "x" * 300, ""),
    ("spec", "? " + "x" * 5_000 + "\n: 1", "unknown key .*x…"),
    ("spec", "model: " + "[" * 120 + "]" * 120, "nested too deeply"),
    ("spec", "model: &a [*a]", "nested too deeply"),
    ("spec", "? [a]\n: 1", "a key is one text or number"),
    ("configuration", 'source: {table: "~\\0", key: id}\nembedding: {model: m}', r"source\.table must be a path without NUL"),
    ("template set", "name: a\ntemplates: [{meta_task: a, prompt: '" + "x" * 5_000 + "'}]", "needs {text} exactly once"),
    ("template set", "name: a\ntemplates: [{meta_task: a, prompt: '{text}'}]\ntext_cleanup: [[[[]]]]", "text_cleanup must be"),
    ("config.json", '{"num_hidden_layers": -5, "hidden_size": 4}', "names no number of layers"),
    ("config.json", '{"num_hidden_layers": true, "hidden_size": 4}', "names no number of layers"),
    ("config.json", '{"num_hidden_layers": 1' + "0" * 400 + ', "hidden_size": 4}', "not readable as JSON"),
    ("config.json", '{"num_hidden_layers": 2, "hidden_size": 4, "max_position_embeddings": %s}' % ("1" * 4_000), "not readable as JSON"),
    ("config.json", '{"auto_map": {}, "model_type": ["x"]}', "names no number of layers"),
    ("manifest", '{"format_version": 1, "files": {"%s": {"sha256": "a", "bytes": 5}}}' % ("é" * 200), "no file of a model folder"),
    ("manifest", '{"format_version": "%s", "files": {}}' % ("x" * 5_000), "format version"),
    ("index of weights", '{"weight_map": {"a": "%s"}}' % ("x" * 300), "no file of a model folder"),
    ("index of weights", '{"weight_map": {"a": "../model.safetensors"}}', "no file of a model folder"),
    ("weights", with_length(b'{"a": {"data_offsets": [0, %s]}}' % (b"9" * 4_300)), "damaged safetensors header"),
    ("weights", with_length(b'{"a": {"data_offsets": [0, 32.0]}}'), "damaged safetensors header"),
    ("adapter", '{"base_model_name_or_path": "%s"}' % ("x" * 300), "adapter"),
    ("adapter", '{"base_model_name_or_path": "a\\u0000b"}', "adapter"),
    ("reference of the hub's cache", b"\xff", "cannot read"),
    ("reference of the hub's cache", "x" * 300, "no such model"),
    ("reference of the hub's cache", "..", "no such model"),
    ("post-processing", save({"mean": np.zeros((), np.float32)}), "shape"),
    ("post-processing", save({"mean": np.zeros(0, np.float32)}), "shape"),
    ("post-processing", save({"mean": np.zeros(4, np.float32), "matrix": np.zeros((4, 0), np.float32)}), "shape"),
    ("post-processing", save({"mean": np.full(4, 1e300)}), "not finite"),
    ("post-processing", bfloat16(), "damaged or no safetensors"),
    ("pairs of sentences", PAIRS.replace(b"\t0\n", b"\t-1e308\n").replace(b"\t1\n", b"\t1e308\n"), ""),
    ("run report", json.dumps(report_tree() | {"wave_log": {"a": {}}}), "wave_log must be a list"),
    ("run report", json.dumps(report_tree() | {"run_id": "99999999T999999-x"}), ""),
    ("run report", json.dumps(report_tree()).replace("40.0", "Infinity"), "seconds must be an object"),
    ("proof", "[" * 3_000, ""),
    ("proof", json.dumps(PROOF | {"source_version": "3"}), ""),
    ("proof", json.dumps(PROOF | {"source_version": 2**63}), ""),
    ("commit", "[" * 3_000, ""),
    ("commit", '{"commitInfo": {"operation": ["MERGE"]}}', ""),
    ("commit", '{"add": {"path": "a", "deletionVector": {"cardinality": Infinity}}}', ""),
]  # fmt: skip


def prepared(reader: Reader, folder: Path) -> tuple[Path, str]:
    """Make what stands around a reader's file; gives the file, and what its messages must name."""
    if reader.file.startswith("model/"):
        make_model(folder / "model")
    if reader.file.endswith(MANIFEST):
        write_manifest(folder / "model", source="here", dtype="float32")
    path = folder / reader.file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, f"{re.escape(str(path))}|{reader.named}" if reader.named else re.escape(str(path))


def _settings(n: int) -> settings:
    return settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_ten_thousand_damaged_files_and_names_are_tried() -> None:
    n_names = sum(n for *_, n in NAMES.values())
    assert sum(reader.examples for reader in READERS.values()) + n_names + N_OVERRIDES >= 10_000


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = READERS[name]
    path, named = prepared(reader, tmp_path)
    for content in reader.valid:
        path.write_bytes(content)
        refused = ours_or_nothing(lambda: reader.read(path), reader.errors, named)
        assert refused is None or "no such model" in refused  # a reference is read, and names a snapshot that is not there


@pytest.mark.parametrize(("name", "content", "words"), FOUND, ids=[f"{n}-{name}" for n, (name, _, _) in enumerate(FOUND)])
def test_what_was_found_is_read_or_refused_by_name(
    name: str, content: str | bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = READERS[name]
    path, named = prepared(reader, tmp_path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    message = ours_or_nothing(lambda: reader.read(path), reader.errors, named)
    assert re.search(words, message or "", re.DOTALL), message


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_nothing_has_is_refused_by_its_setting(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    read, errors, named, n = NAMES[name]

    @_settings(n)
    @example("")
    @example("a\0b")
    @example("~\0")
    @example("\ud800")
    @example("x" * 300)
    @example("x/" * 3_000)
    @given(names)
    def check(text: str) -> None:
        ours_or_nothing(lambda: read(text), errors, f"{named}|{re.escape(text[:80]) or named}", text)

    check()


def test_an_override_is_read_or_refused_by_its_setting(tmp_path: Path) -> None:
    @_settings(N_OVERRIDES)
    @example("source.where=\ud800")
    @example("embedding.spec=a\0b")
    @example("runtime.wave_rows=0x" + "f" * 9_000)
    @example("x" * 5_000 + "=1")
    @given(overrides)
    def check(text: str) -> None:
        ours_or_nothing(lambda: load_config(CONFIG, [text]), (ConfigError,), rf"{SECTIONS}|override|section|the spec file")

    check()


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = READERS[name]
    path, named = prepared(reader, tmp_path)

    @_settings(reader.examples)
    @given(reader.contents)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        ours_or_nothing(lambda: reader.read(path), reader.errors, named)

    check()
