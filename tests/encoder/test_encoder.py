"""What `MetaEOLEncoder` does with rows that fail, memory that runs out, and models that it cannot run fast."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder import decoder_pass
from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError
from metaeol_udf.prompts import clean_text
from tests.encoder.oracle import one_at_a_time, worst_cosine
from tests.encoder.test_exactness import TEXTS, encoder
from tests.prompts.test_prompts import NASTY


def test_null_blank_and_long_rows_follow_the_contract(tiny_model: Callable[..., Path]) -> None:
    ours = encoder(tiny_model("llama"), max_tokens=20)
    rows = ours.encode_rows(["one text", None, "", " \n\t", "one text", "word " * 500, "control \x00\x01 characters"])
    assert rows.errors == [None, "null_text", "empty_text", "empty_text", None, None, None]
    assert rows.trimmed.tolist() == [False, False, False, False, False, True, False]
    assert not rows.vectors[[1, 2, 3]].any()
    np.testing.assert_array_equal(rows.vectors[0], rows.vectors[4])
    assert rows.tokens_computed[4] == 0
    assert rows.tokens_saved[4] > 0
    assert np.isfinite(rows.vectors).all()


def test_tokens_computed_are_those_that_went_through_the_model(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = encoder(tiny_model("llama"))
    seen: list[int] = []
    run = ours.engine.runner.run
    monkeypatch.setattr(ours.engine.runner, "run", lambda batch, ids: (seen.append(sum(c.n_tokens for c in batch)), run(batch, ids))[1])
    rows = ours.encode_rows(TEXTS)
    assert rows.tokens_computed.sum() == sum(seen) + sum(len(group.prefix_ids) for group in ours.engine.trie.groups)
    whole = [len(ids) for text in TEXTS for ids in _whole_prompts(ours, text)]
    assert (rows.tokens_computed + rows.tokens_saved).sum() == sum(whole)


def test_who_listens_is_told_of_each_batch_how_many_texts_are_done(tiny_model: Callable[..., Path]) -> None:
    ours = encoder(tiny_model("llama"))
    told: list[float] = []
    ours.batch_runner.max_batch_tokens = 40
    ours.batch_runner.on_texts = told.append
    ours.encode_rows(TEXTS)
    assert len(told) > 1
    assert sum(told) == pytest.approx(len(set(TEXTS)))


def _whole_prompts(ours: MetaEOLEncoder, text: str) -> list[list[int]]:
    cleaned, templates = clean_text(text, "paper"), ours.templates
    return ours.engine.trie.tokenizer.tokenize([templates.fill(t, cleaned) for t in templates.templates])


def test_a_text_that_breaks_the_model_is_isolated_and_its_neighbours_are_embedded(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("llama")
    ours, expected = encoder(folder), encoder(folder).encode(TEXTS)
    poison = ours.engine.trie.tokenize(["the old guitar."])[0][0]
    run = ours.engine.runner.run

    def fail_on_poison(batch: Any, ids: Any) -> Any:
        if any(ids[cell.group][row] == poison for cell in batch for row in cell.rows):
            raise ValueError("the old guitar is poison")
        return run(batch, ids)

    monkeypatch.setattr(ours.engine.runner, "run", fail_on_poison)
    rows = ours.encode_rows(TEXTS)
    bad = TEXTS.index("the old guitar")
    assert [error for i, error in enumerate(rows.errors) if i != bad] == [None] * (len(TEXTS) - 1)
    assert rows.errors[bad] == "error: ValueError"
    assert worst_cosine(np.delete(rows.vectors, bad, 0), np.delete(expected, bad, 0)) >= 0.99999
    with pytest.raises(MetaEOLError, match=f"text {bad} could not be embedded: error: ValueError"):
        ours.encode(TEXTS)


def test_a_text_that_breaks_the_tokenizer_is_isolated_too(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model("llama")
    ours, expected = encoder(folder), encoder(folder).encode(TEXTS)
    tokenize = ours.engine.trie.tokenize

    def fail_on_poison(texts: list[str]) -> Any:
        if "the old guitar." in texts:
            raise OverflowError("the old guitar is poison")
        return tokenize(texts)

    monkeypatch.setattr(ours.engine.trie, "tokenize", fail_on_poison)
    rows = ours.encode_rows([None, *TEXTS])
    bad = 1 + TEXTS.index("the old guitar")
    assert rows.errors == ["null_text"] + ["error: OverflowError" if row == bad else None for row in range(1, 1 + len(TEXTS))]
    assert worst_cosine(np.delete(rows.vectors, [0, bad], 0), np.delete(expected, bad - 1, 0)) >= 0.99999


@pytest.mark.long
def test_out_of_memory_halves_the_batch_remembers_and_recovers(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model("llama")
    ours, expected = encoder(folder, max_batch_tokens=800), encoder(folder).encode(TEXTS)
    run, limit = ours.engine.runner.run, [120]

    def small_memory(batch: Any, ids: Any) -> Any:
        if sum(cell.n_tokens for cell in batch) > limit[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(batch, ids)

    monkeypatch.setattr(ours.engine.runner, "run", small_memory)
    rows = ours.encode_rows(TEXTS)
    assert rows.errors == [None] * len(TEXTS)
    assert worst_cosine(rows.vectors, expected) >= 0.99999
    assert ours.batch_runner.max_batch_tokens <= 120
    limit[0] = 10**6
    ours.encode_rows([f"the people play {i} times" for i in range(1500)])
    assert ours.batch_runner.max_batch_tokens > 120
    limit[0] = 4
    assert set(ours.encode_rows(["the river", "music"]).errors) == {"oom"}


def test_vectors_that_are_not_finite_become_errors(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = encoder(tiny_model("llama"))
    run = ours.engine.runner.run

    def with_nan(batch: Any, ids: Any) -> Any:
        states = [state.clone() for state in run(batch, ids)]
        for cell, state in zip(batch, states, strict=True):
            state[[row == 0 for row in cell.rows]] = float("nan")
        return states

    monkeypatch.setattr(ours.engine.runner, "run", with_nan)
    rows = ours.encode_rows(["the river", "music plays"])
    assert rows.errors == ["non_finite", None]
    assert not rows.vectors[0].any()


def test_a_fast_path_that_differs_is_not_used(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_model("llama")
    build = decoder_pass.build_decoder

    def build_wrongly(*arguments: Any) -> Any:
        decoder = build(*arguments)
        assert decoder is not None
        decoder.layers[1].attention_norm.weight.mul_(torch.linspace(0.2, 3.0, 48))
        return decoder

    monkeypatch.setattr(decoder_pass, "build_decoder", build_wrongly)
    ours = encoder(folder)
    assert ours.engine.runner.name == "stream"
    assert "decoder: its cosine to transformers is" in caplog.text
    prompts = [t.prompt for t in TemplateSet.load("metaeol").templates]
    assert worst_cosine(ours.encode(TEXTS, per_template=True), one_at_a_time(folder, prompts, TEXTS, -1)) >= 0.99999


def test_truncation_normalisation_and_templates_side_by_side(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    plain = encoder(folder).encode(TEXTS, per_template=True)

    def made(**settings: Any) -> np.ndarray[Any, Any]:
        spec = EmbeddingSpec(model=str(folder), dtype="float32", **settings)
        return MetaEOLEncoder.from_spec(spec, device="cpu").encode(TEXTS)

    short = plain.mean(1)[:, :10]
    np.testing.assert_allclose(made(truncate_dim=10, normalize=True), short / np.linalg.norm(short, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(made(per_template=True, truncate_dim=7), plain[:, :, :7].reshape(len(TEXTS), -1), atol=1e-5)


@pytest.mark.parametrize(("setting", "error", "message"), [
    ({"layer": 9}, ConfigError, "the model has 4 layers"),
    ({"max_tokens": 1020}, ConfigError, "use at most"),
    ({"device": "cuda:7"}, EnvironmentFault, "torch sees"),
])  # fmt: skip
def test_settings_that_the_model_or_machine_cannot_do_are_refused(
    setting: dict[str, Any], error: type[Exception], message: str, tiny_model: Callable[..., Path]
) -> None:
    with pytest.raises(error, match=message):
        encoder(tiny_model("llama"), **setting)


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        encoder(Path("models/no-such-model"))


@pytest.mark.long
def test_properties_of_nasty_texts_hold(tiny_model: Callable[..., Path]) -> None:
    ours = encoder(tiny_model("llama"), "metaeol-fast")

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.lists(NASTY, min_size=1, max_size=12), st.randoms(use_true_random=False))
    def check(texts: list[str], rng: Any) -> None:
        rows = ours.encode_rows(texts)
        assert rows.vectors.shape == (len(texts), 48)
        assert np.isfinite(rows.vectors).all()
        assert [error == "empty_text" for error in rows.errors] == [not text.strip() for text in texts]
        order = list(range(len(texts)))
        rng.shuffle(order)
        shuffled = ours.encode_rows([texts[i] for i in order])
        good = [k for k, i in enumerate(order) if rows.errors[i] is None]
        if good:
            assert worst_cosine(shuffled.vectors[good], rows.vectors[[order[k] for k in good]]) >= 0.99999

    check()


@pytest.mark.slow
@pytest.mark.long
def test_nasty_texts_equal_one_prompt_at_a_time_on_smollm2(model_dir: Path) -> None:
    texts = ['She said: "No!"', "{text} and <|im_start|>", "عربي 日本語 😀", "x" * 100, "a\x00b\u200d?"]
    prompts = [t.prompt for t in TemplateSet.load("metaeol-separate").templates]
    ours = encoder(model_dir, "metaeol-separate").encode(texts, per_template=True)
    assert worst_cosine(ours, one_at_a_time(model_dir, prompts, texts, -1)) >= 0.99999


@pytest.mark.slow
@pytest.mark.long
def test_bfloat16_stays_near_float32_on_smollm2(model_dir: Path) -> None:
    texts = [*TEXTS[:8], "A man is playing a guitar.", "The stock market fell sharply on Monday."]
    exact = encoder(model_dir).encode(texts)
    assert worst_cosine(encoder(model_dir, dtype="bfloat16").encode(texts), exact) >= 0.9995


GROWTH = """
import sys
from metaeol_udf import MetaEOLEncoder, TemplateSet

def resident():
    fields = [line.split() for line in open("/proc/self/status") if line.startswith("VmRSS:")]
    return int(fields[0][1]) / 1024

encoder = MetaEOLEncoder.from_pretrained(sys.argv[1], templates=TemplateSet.load("metaeol"), dtype="bfloat16", device="cpu")
texts = [f"text {'word ' * (n % 23)}number {n}" for n in range(160)]
encoder.encode(texts[:16])
before = resident()
for start in range(16, 160, 24):
    encoder.encode(texts[start : start + 24])
print(resident() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_shapes_of_batches(model_dir: Path) -> None:
    """In a process of its own: the caches are laid out at its first product."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(model_dir)], capture_output=True, text=True, timeout=500, cwd=Path(__file__).resolve().parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 150  # MiB; 300 to 400 without a bound


def test_the_model_runs_on_the_next_texts_while_the_last_vectors_are_used(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = encoder(tiny_model("llama"))
    started = [threading.Event() for _ in range(4)]
    taken: list[int] = []
    run = ours.batch_runner.run

    def watched(prepared: Any, *arguments: Any) -> Any:
        started[prepared.n_unique].set()
        return run(prepared, *arguments)

    def chunks() -> Iterator[list[str]]:
        for n in range(1, 4):
            taken.append(n)
            yield [f"text {i}" for i in range(n)]

    monkeypatch.setattr(ours.batch_runner, "run", watched)
    stream = ours.encode_batches(chunks())
    assert len(next(stream).vectors) == 1
    assert started[2].wait(60)  # nobody has asked for the second list's vectors
    assert len(next(stream).vectors) == 2
    assert started[3].wait(60)
    assert [len(encoded.vectors) for encoded in stream] == [3]
    assert taken == [1, 2, 3]


def test_texts_that_are_not_asked_for_any_more_are_not_computed(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = encoder(tiny_model("llama"))
    sizes: list[int] = []
    run = ours.batch_runner.run
    monkeypatch.setattr(ours.batch_runner, "run", lambda prepared, *more: (sizes.append(prepared.n_unique), run(prepared, *more))[1])
    stream = ours.encode_batches([f"text {i}" for i in range(n)] for n in range(1, 50))
    next(stream)
    stream.close()
    assert np.isfinite(ours.encode(["another text"])).all()
    assert sizes[-1] == 1
    assert len(sizes) <= 4
