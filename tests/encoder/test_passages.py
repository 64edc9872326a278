"""The vector of a long text is the mean of its passages' vectors, weighted by their tokens, and post-processed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.errors import ConfigError
from metaeol_udf.prompts.passages import spans_of, split_text
from metaeol_udf.spec import Passage
from tests.encoder.test_exactness import encoder

BY = Passage(tokens=16, overlap=4)
SHORT = ["a short text", "the river"]
LONG = 'The old guitar hung on the wall. Who had played it? Nobody in the house knew "why". It was there when they came.\n' * 6
OTHER = "word " * 90


def mean_encoder(folder: Path, **settings: Any) -> MetaEOLEncoder:
    return encoder(folder, "metaeol-two", **{"max_tokens": 20, "long_texts": "mean", "passage": BY, **settings})


def passages_of(ours: MetaEOLEncoder, text: str) -> tuple[list[str], NDArray[np.float64]]:
    spans = split_text(text, ours.spec.passage, "paper", ours.engine.trie.tokenizer)
    tokens = np.array([span.n_tokens for span in spans], float)
    return [text[span.start : span.end] for span in spans], tokens / tokens.sum()


def test_the_vector_is_the_weighted_mean_of_the_passages_embedded_alone(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    ours, trims = mean_encoder(folder), encoder(folder, "metaeol-two", max_tokens=20)
    found = ours.encode([*SHORT, LONG, OTHER, LONG])
    np.testing.assert_allclose(found[:2], trims.encode(SHORT), rtol=1e-4, atol=1e-5)
    for row, text in ((2, LONG), (3, OTHER)):
        passages, weights = passages_of(ours, text)
        assert len(passages) > 3
        alone = trims.encode(passages)
        np.testing.assert_allclose(found[row], weights @ alone, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.encode(passages), alone, rtol=1e-4, atol=1e-5)  # none of them is too long
    np.testing.assert_array_equal(found[2], found[4])
    assert np.abs(found[2] - trims.encode(LONG)).max() > 1e-3
    each = ours.encode([LONG], per_template=True)
    np.testing.assert_allclose(each[0].mean(0), found[2], rtol=1e-4, atol=1e-5)


def test_post_processing_comes_once_after_the_mean(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, file = tiny_model("llama"), tmp_path / "post.safetensors"
    plain = mean_encoder(folder)
    mean = plain.encode(LONG)
    file.write_bytes(PostProcessing(mean=np.full(len(mean), 0.5, np.float32)).to_bytes())
    found = mean_encoder(folder, postprocess=str(file), normalize=True).encode(LONG)
    np.testing.assert_allclose(found, (mean - 0.5) / np.linalg.norm(mean - 0.5), rtol=1e-4, atol=1e-5)


def test_counts_follow_the_passages(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = mean_encoder(tiny_model("llama"))
    seen: list[int] = []
    run = ours.engine.runner.run
    monkeypatch.setattr(ours.engine.runner, "run", lambda batch, ids: (seen.append(sum(c.n_tokens for c in batch)), run(batch, ids))[1])
    rows = ours.encode_rows([*SHORT, None, LONG, LONG, OTHER])
    assert rows.errors == [None, None, "null_text", None, None, None]
    assert not rows.trimmed.any()
    assert rows.tokens_computed.sum() == sum(seen) + sum(len(group.prefix_ids) for group in ours.engine.trie.groups)
    assert rows.tokens_computed[4] == 0 < rows.tokens_saved[4]


def test_a_passage_that_fails_fails_its_text_alone(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = mean_encoder(tiny_model("llama"))
    poison = ours.engine.trie.tokenize([passages_of(ours, LONG + " zebra")[0][-1] + "."])[0][0][-6:]
    run = ours.engine.runner.run

    def failing(batch: Any, ids: Any) -> Any:
        if any(list(ids[cell.group][row])[-6:] == poison for cell in batch for row in cell.rows):
            raise ValueError("poison")
        return run(batch, ids)

    monkeypatch.setattr(ours.engine.runner, "run", failing)
    rows = ours.encode_rows([SHORT[0], LONG + " zebra", OTHER])
    assert rows.errors == [None, "error: ValueError", None]
    assert not rows.vectors[1].any()
    assert rows.vectors[2].any()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"long_texts": "means"}, "embedding.long_texts must be one of trim, mean"),
    ({"long_texts": "mean", "max_tokens": 100}, "embedding.passage.tokens is 256, more than embedding.max_tokens 100"),
    ({"passage": {"tokens": 8}}, "embedding.passage.tokens must be an integer from 16, found 8"),
    ({"passage": {"tokens": 32, "overlap": 17}}, "embedding.passage.overlap must be an integer from 0 to half of"),
    ({"passage": {"by": "word"}}, "embedding.passage.by must be one of sentence, token"),
    ({"passage": {"token": 32}}, "did you mean 'tokens'"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_settings_that_cannot_be_met_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingSpec.from_mapping({"model": "m", **settings})


def test_only_what_changes_a_vector_counts_in_the_fingerprint() -> None:
    def fingerprint(**settings: Any) -> str:
        return EmbeddingSpec.from_mapping({"model": "m", **settings}).fingerprint()

    assert fingerprint() == fingerprint(passage={"tokens": 64}) == fingerprint(long_texts="trim")
    means = [
        fingerprint(long_texts="mean", passage=each)
        for each in ({"tokens": 64}, {"tokens": 65}, {"tokens": 64, "overlap": 0}, {"by": "token"})
    ]
    assert len({fingerprint(), *means}) == 5
    assert fingerprint(long_texts="mean") == fingerprint(long_texts="mean", passage={"tokens": 256})


def test_a_tokenizer_without_offsets_is_refused(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", property(lambda self: False))
    with pytest.raises(ConfigError, match=r"embedding\.long_texts is 'mean', but the model's tokenizer does not say"):
        mean_encoder(tiny_model("llama"))


def test_spans_are_the_whole_text_or_its_passages(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    trims = encoder(folder, "metaeol-two", max_tokens=20)
    tokenizer = trims.engine.trie.tokenizer
    assert spans_of(" \n", BY, "paper", 20, tokenizer) == []
    for text in (*SHORT, "  a short text  "):
        assert spans_of(text, BY, "paper", 20, tokenizer) == [(0, len(text))]
    for text in (LONG, OTHER, "é" * 200, "\u00a0" + LONG):
        spans = spans_of(text, BY, "paper", 20, tokenizer)
        assert spans == [(span.start, span.end) for span in split_text(text, BY, "paper", tokenizer)]
        assert "".join(text[start:end] for start, end in [(0, spans[0][0]), (spans[-1][1], len(text))]).strip() == ""
        assert not trims.encode_rows([text[start:end] for start, end in spans]).trimmed.any()
    edited = LONG.replace("Nobody", "Somebody", 1)
    by = Passage(tokens=16, overlap=0)
    before, after = ({text[a:b] for a, b in spans_of(text, by, "paper", 20, tokenizer)} for text in (LONG, edited))
    assert len(after - before) == 1  # without an overlap an edit changes its own passage


def test_the_encoder_makes_one_vector_of_a_text(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama")
    with pytest.raises(ConfigError, match=r"embedding.long_texts is passages, which makes several rows"):
        MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(folder), long_texts="passages"), device="cpu")
    spec = EmbeddingSpec(model="m", long_texts="passages", passage=Passage(tokens=64))
    assert spec.fingerprint() == EmbeddingSpec(model="m").fingerprint()  # a passage has the vector of a short text
    assert spec.of_one_passage().splits_by is None
