"""`MetaEOLEncoder`: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from metaeol_udf.encoder.reference import encode_plainly
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.cleanup import is_blank
from metaeol_udf.prompts.tokens import PromptTokenizer
from metaeol_udf.spec import EmbeddingSpec, output_layer


@dataclass(frozen=True)
class Encoded:
    """What became of a list of texts. All arrays follow the order of the texts.

    Attributes:
        vectors: float32, shape ``(n_texts, dim)``; zeros where there is an error.
        errors: None where all is well, else a code such as `null_text`, `empty_text`, `non_finite`, `oom` or `error: TypeName`.
        trimmed: Whether the text was longer than `max_tokens`.
        tokens_computed: Tokens that went through the model for this text; 0 for a repeated one.
        tokens_saved: Tokens that one pass a prompt would have computed beyond those.
    """

    vectors: NDArray[np.float32]
    errors: list[str | None]
    trimmed: NDArray[np.bool_]
    tokens_computed: NDArray[np.int64]
    tokens_saved: NDArray[np.int64]


class MetaEOLEncoder:
    def __init__(self, model, tokenizer, spec: EmbeddingSpec, templates: TemplateSet) -> None:
        self.spec = spec
        self.templates = templates
        self._model = model
        self._tokenizer = PromptTokenizer(tokenizer)
        self._layer = output_layer(spec.layer, model.config.num_hidden_layers)

    @classmethod
    def from_pretrained(cls, model: str, *, templates: TemplateSet, layer: int | float = -1, dtype: str = "auto", device: str = "auto") -> MetaEOLEncoder:
        spec = EmbeddingSpec(model=model, layer=layer, dtype=dtype, templates_json=templates.to_json(), templates=templates.name)
        return cls.from_spec(spec, device=device)

    @classmethod
    def from_spec(cls, spec: EmbeddingSpec, *, device: str = "auto", max_batch_tokens: int | str = "auto") -> MetaEOLEncoder:
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(spec.model, dtype=torch.float32, use_safetensors=True).eval()
        return cls(model, AutoTokenizer.from_pretrained(spec.model), spec, TemplateSet.from_spec(spec))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._model.config.hidden_size

    def encode(self, texts: Sequence[str], *, per_template: bool = False) -> NDArray[np.float32]:
        vectors = encode_plainly(self._model, self._tokenizer, self.templates, texts, self._layer)
        return vectors if per_template else vectors.mean(1)

    def encode_rows(self, texts: Sequence[str | None]) -> Encoded:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        errors: list[str | None] = ["null_text" if t is None else "empty_text" if is_blank(t) else None for t in texts]
        good = [i for i, e in enumerate(errors) if e is None]
        trims = {i: self._tokenizer.trim(texts[i].strip(), self.spec.max_tokens) for i in good}
        if good:
            vectors[good] = self.encode([trims[i][0] for i in good])
        trimmed = np.array([i in trims and trims[i][1] for i in range(len(texts))], bool)
        return Encoded(vectors, errors, trimmed, np.ones(len(texts), np.int64), np.ones(len(texts), np.int64))
