"""Our encoder as a model of the `mteb` library (Muennighoff et al. 2023, arXiv:2210.07316), for that library's own tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.errors import ConfigError


class MtebModel:
    """Gives `mteb.evaluate(model, tasks)` what it takes: an encoder in the shape of mteb's `EncoderProtocol`.

    Tasks whose data is on this machine run without a network. mteb's own prompts are not used: the template set says what a
    text is asked. mteb files results under the model's name and revision; the revision is the spec's fingerprint, so other
    settings are never taken for these.

    Attributes:
        encoder: The encoder.
        mteb_model_meta: Name, revision and shape, as mteb wants them.
    """

    def __init__(self, encoder: MetaEOLEncoder, name: str | None = None) -> None:
        """Wrap an encoder.

        Args:
            encoder: Loaded.
            name: `organisation/model`, under which mteb files the results; None makes one of model and template set.

        Raises:
            ConfigError: mteb is missing.
        """
        try:
            from mteb.models.model_meta import ModelMeta, ScoringFunction
        except ImportError:
            raise ConfigError("MtebModel needs a package that is not installed: pip install 'metaeol-udf[mteb]'") from None
        spec = resolve_local(encoder.spec).spec
        self.encoder = encoder
        self.mteb_model_meta: Any = ModelMeta.create_empty(
            overwrites={
                "name": name or f"metaeol/{Path(spec.model).name}-{encoder.templates.name}",
                "revision": spec.fingerprint(),
                "embed_dim": encoder.dim,
                "max_tokens": spec.max_tokens,
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": False,
                "framework": ["PyTorch"],
            }
        )

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_settings: Any) -> NDArray[np.float32]:
        """Embed the texts of mteb's batches.

        Args:
            inputs: Batches with a list of strings under `text`. All are embedded together: the encoder plans its own batches.
            _settings: mteb's task, split, subset, prompt type and batch size, none of which changes a vector.

        Returns:
            Shape ``(n_texts, dim)``, rows in the order of the texts.
        """
        vectors: NDArray[np.float32] = self.encoder.encode([text for batch in inputs for text in batch["text"]])
        return vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Compute the cosine of each of the first with each of the second, shape ``(n_1, n_2)``."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Compute the cosine of each pair, shape ``(n_pairs,)``."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)
