"""Fingerprints of rows: whose text a vector belongs to, with a secret key or without one."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.delta.tables.fingerprint import HashKey, RowFingerprints
from metaeol_udf.doctor.tables import check_vector_room
from metaeol_udf.errors import ConfigError, InputError
from tests.table_bench import Before, Bench

KEY = "a secret of the table's owner"
TEXTS: list[tuple[int, str | None]] = [(1, "a first text"), (2, "a second text"), (3, None), (4, "a first text")]


def digest(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


@pytest.mark.parametrize("secret", [b"sixteen bytes ok", b"\x00" * 16 + b"\xff", b"x" * 64, b"longer than a block of SHA-256 " * 5])
def test_a_keyed_hash_is_hmac_with_sha_256_of_the_stored_bytes(spark: SparkSession, secret: bytes) -> None:
    contents = [b"a text", "\u00e4\U0001f600".encode(), b"", b"no valid UTF-8 \xff\x80", b"x" * 1_000]
    fingerprints = RowFingerprints("spec", HashKey(secret))
    rows = spark.createDataFrame([(bytearray(content),) for content in contents], "content binary")
    text = F.col("content").cast("string")
    found = [row["found"] for row in fingerprints.prepare(rows).select(fingerprints.of(text).alias("found")).collect()]
    assert found == [f"spec-{hmac.new(secret, content, hashlib.sha256).hexdigest()[:32]}" for content in contents]


def test_a_key_is_read_from_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASH_KEY", KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert HashKey.read("env:HASH_KEY") == HashKey.read(f"file:{tmp_path}/key") == HashKey(KEY.encode())
    assert KEY not in repr(HashKey(KEY.encode()))


@pytest.mark.parametrize(
    ("setting", "words"),
    [("env:NOT_THERE", "is not set or empty"), ("env:SHORT", "has 5 bytes, and a key has 16 or more"), ("file:/not/there", "No such file"),
     ("file:/", "Is a directory"), ("file:a\0b", "no file has such a name")],
)  # fmt: skip
def test_a_key_that_cannot_be_read_is_refused_without_a_word_of_it(setting: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORT", "abcde")
    with pytest.raises(ConfigError, match=f"^target.fingerprint_key: .*{words}") as caught:
        HashKey.read(setting)
    assert "abcde" not in str(caught.value)


@pytest.mark.slow
def test_a_table_gets_keyed_hashes_without_the_model_and_no_other_key_is_taken(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASH_KEY", KEY)
    bench.write(TEXTS)
    target = {"fingerprint_key": "env:HASH_KEY"}
    assert bench.run()["rows_embedded"] == 3
    plain = bench.rows()
    done = bench.run(target=target)
    assert (done["texts_reused"], done["tokens_computed"], done["waves"]) == (2, 0, 0)
    keyed = bench.rows()
    assert {n: row["embedding"] for n, row in keyed.items()} == {n: row["embedding"] for n, row in plain.items()}
    assert {n: row["embedding_fingerprint"].rpartition("-")[2] for n, row in keyed.items()} == {
        n: "null" if text is None else digest(KEY, text) for n, text in TEXTS
    }
    assert bench.run(target=target)["status"] == "nothing_to_do"
    # A text that changes while the run works gets the other text's vector under no key.
    bench.write([(5, "a fifth text")], mode="append")
    changed = Before("publish", lambda: bench.spark.sql(f"UPDATE delta.`{bench.path}` SET text = 'another' WHERE id = 5"))
    assert bench.run(target=target, between=changed)["rows_stale"] == 1
    assert bench.run(target=target)["rows_embedded"] == 1
    assert bench.rows()[5]["embedding_fingerprint"].endswith(digest(KEY, "another"))
    monkeypatch.setenv("OTHER_KEY", KEY * 2)
    for setting, words in ((None, "the job has none"), ("env:OTHER_KEY", "the job's is key")):
        with pytest.raises(InputError, match=f"^target.fingerprint_key: .*made with key [0-9a-f]{{16}}, and {words}"):
            bench.run(target={"fingerprint_key": setting})
        config = bench.config(target={"fingerprint_key": setting})
        place = Source(config.source)
        assert place.table is not None
        assert check_vector_room(bench.spark, config, bench.table(), place, place.table).setting.startswith("target.fingerprint_key=")
    assert not {KEY, KEY * 2} & {word for row in bench.spark.sql(f"SHOW TBLPROPERTIES delta.`{bench.path}`").collect() for word in row}


@pytest.mark.slow
def test_a_stream_makes_keyed_hashes_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASH_KEY", KEY)
    bench.write(TEXTS)
    config = bench.config(target={"table": str(bench.folder / "vectors"), "fingerprint_key": "env:HASH_KEY"})
    assert run_stream(config, bench.spark)["rows_embedded"] == 3
    bench.write([(5, "a fifth text")], mode="append")
    assert run_stream(config, bench.spark)["rows_embedded"] == 1
    found = {n: row["embedding_fingerprint"].rpartition("-")[2] for n, row in bench.rows("vectors").items()}
    assert found == {n: "null" if text is None else digest(KEY, text) for n, text in [*TEXTS, (5, "a fifth text")]}
