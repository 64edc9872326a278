"""The runners of a model, fastest first, and the choice of the first one that is proved exact.

| runner | takes |
| --- | --- |
| decoder | the families of `checkpoint/families.py`: our own decoder |
| stream | any model whose attention goes through transformers' interface |
| fork | models that carry a state, and keep it in transformers' cache |
| whole | any model: whole prompts, several times slower |
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from metaeol_udf.encoder.checkpoint.architectures import DECODER_TYPES, cannot_quantize, not_of_the_decoder
from metaeol_udf.encoder.checkpoint.process_memory import release_clean_pages, return_freed_memory
from metaeol_udf.encoder.decoder_pass import make_decoder_pass
from metaeol_udf.encoder.forward.hf_weights import unread_settings
from metaeol_udf.encoder.forward.runner import Runner
from metaeol_udf.encoder.generic.fork_pass import ForkPass
from metaeol_udf.encoder.generic.sequence_pass import SequencePass
from metaeol_udf.encoder.generic.text_model import TextModel
from metaeol_udf.encoder.generic.whole_pass import WholePass
from metaeol_udf.encoder.large_model import settle_model
from metaeol_udf.encoder.proof import Proof, depends_on_length
from metaeol_udf.errors import EnvironmentFault, MetaEOLError
from metaeol_udf.prompts.tokenizer import PromptTokenizer
from metaeol_udf.prompts.trie import PromptTrie
from metaeol_udf.spec import EmbeddingSpec

logger = logging.getLogger(__name__)


class ModelSource:
    """Holds a transformers model until a runner takes weights out of it; then it is loaded again for the next runner.

    Attributes:
        model_type: The architecture's name.
    """

    def __init__(self, model: Any, load: Callable[[], Any]) -> None:
        """Hold a model.

        Args:
            model: A base model that takes text.
            load: Loads it again.
        """
        self._model, self._load = model, load
        self._text_model: TextModel | None = None
        self._is_settled = False
        self.model_type: str = model.config.model_type

    def get(self) -> Any:
        """Return the model, whole."""
        self._model = self._load() if self._model is None else self._model
        return self._model

    def settle(self, layers: Sequence[int], quantization: str | None, devices: Sequence[torch.device]) -> None:
        """Quantize the model and spread it over devices, as `settle_model` does, unless that is done."""
        if not self._is_settled:
            try:
                settle_model(self.get(), layers[-1], quantization, devices)
            except Exception:
                self.drop()  # some of its weights are changed
                raise
            self._is_settled = True

    def read(self, layers: Sequence[int]) -> TextModel:
        """Return the model as a runner takes it."""
        self._text_model = TextModel(self.get(), layers)
        return self._text_model

    def restore(self) -> None:
        """Make the model as it was, after a runner that is not used."""
        if self._text_model is not None:
            self._text_model.close()
            self._text_model = None

    def drop(self) -> None:
        """Give the model up: what it still holds keeps the file of weights in memory."""
        self._model, self._is_settled = None, False
        gc.collect()
        return_freed_memory()
        release_clean_pages()


@dataclass(frozen=True)
class ChosenRunner:
    """Holds a runner that is proved.

    Attributes:
        runner: It.
        trie: Tokenises for it.
        worst_cosine: To what the proof expects.
        reasons: Why no faster runner is used.
    """

    runner: Runner
    trie: PromptTrie
    worst_cosine: float
    reasons: tuple[str, ...]


class _NotForThisModelError(Exception):
    """Says why a runner is not meant for a model; that is no fault."""


def choose_runner(
    source: ModelSource, spec: EmbeddingSpec, proof: Proof, tokenizer: PromptTokenizer, layers: Sequence[int],
    devices: Sequence[torch.device] = (),
) -> ChosenRunner:  # fmt: skip
    """Choose the fastest runner that is exact.

    Args:
        source: The model.
        spec: What is computed.
        proof: What a runner must compute.
        tokenizer: Of the model.
        layers: Indices into the hidden states of what is read.
        devices: Where a quantized or split model goes; none: the model stands where it runs.

    Raises:
        ConfigError: A quantized model has no runner that is exact.
        EnvironmentFault: The same for a model that is larger than a GPU.
    """
    trie = PromptTrie(proof.templates, tokenizer)
    makers: dict[str, Callable[[], Runner]] = {
        "decoder": lambda: _make_decoder(source, spec, trie, layers, proof, devices),
        "stream": lambda: SequencePass(_text_model(source, spec, layers, proof, devices), trie.groups),
        "fork": lambda: ForkPass(_text_model(source, spec, layers, proof, devices), trie.groups),
    }
    reasons: list[str] = []
    is_fault = False
    for name, make in makers.items():
        try:
            runner = make()
            cosine, why = proof.judge(trie, runner)
        except (MetaEOLError, torch.OutOfMemoryError, MemoryError):
            raise
        except _NotForThisModelError as error:
            reasons.append(f"{name}: {error}")
        except Exception as error:  # whatever a foreign model does here, the next runner may take it
            logger.info("runner %s cannot be made", name, exc_info=True)
            reasons.append(f"{name}: {error if isinstance(error, TypeError) else type(error).__name__}")
            is_fault = True
        else:
            if why is None:
                if isinstance(runner, (SequencePass, ForkPass)):
                    runner.text_model.drop_unused_layers()
                if is_fault:
                    logger.warning(
                        "%s runs on runner %s, a slower one. Vectors are exact. Not used: %s", spec.model, name, "; ".join(reasons)
                    )
                return ChosenRunner(runner, trie, cosine, tuple(reasons))
            reasons.append(f"{name}: {why}")
            is_fault = True
        source.restore()
    all_reasons = "; ".join(reasons)
    if spec.quantization is not None:
        raise cannot_quantize(spec, all_reasons)
    if devices:
        raise EnvironmentFault(f"{spec.model} is larger than a GPU and cannot be split: {all_reasons}")
    logger.warning("%s runs on whole prompts. Vectors are exact, but come several times slower. Not used: %s", spec.model, all_reasons)
    return ChosenRunner(WholePass(source.get(), layers), PromptTrie(proof.templates, tokenizer, may_cut=False), 1.0, tuple(reasons))


def _make_decoder(
    source: ModelSource, spec: EmbeddingSpec, trie: PromptTrie, layers: Sequence[int], proof: Proof, devices: Sequence[torch.device]
) -> Runner:
    """Make the runner of a known family; the model gives its weights up."""
    if source.model_type not in DECODER_TYPES:
        raise _NotForThisModelError(not_of_the_decoder(source.model_type))
    unread = unread_settings(source.get().config)
    if unread:
        raise _NotForThisModelError(f"this {source.model_type} sets {', '.join(unread)}, which the decoder does not know")
    _check_length(source, proof)
    try:
        runner = make_decoder_pass(source.get(), spec, trie, layers, devices)
    except Exception:
        source.drop()  # some of its weights are given up
        raise
    if runner is None:
        raise _NotForThisModelError(f"this {source.model_type} has settings that the decoder does not know")
    source.drop()
    return runner


def _text_model(
    source: ModelSource, spec: EmbeddingSpec, layers: Sequence[int], proof: Proof, devices: Sequence[torch.device]
) -> TextModel:
    """Take the model as transformers made it."""
    _check_length(source, proof)
    if devices:
        source.settle(layers, spec.quantization, devices)
    return source.read(layers)


def _check_length(source: ModelSource, proof: Proof) -> None:
    """See that what a prompt's beginning is does not depend on its end."""
    if depends_on_length(source.get().config, proof.n_most_tokens):
        raise _NotForThisModelError("its rotary positions change with the length of a prompt; embedding.max_tokens is large for it")
