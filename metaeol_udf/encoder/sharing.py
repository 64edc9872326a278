"""An engine for another spec from a model that is loaded: the same weights, with a trie and output layers of the spec's own."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch

from metaeol_udf.encoder.decoder_pass import remake_decoder_pass
from metaeol_udf.encoder.forward.runner import Runner
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.generic.fork_pass import ForkPass
from metaeol_udf.encoder.generic.sequence_pass import SequencePass
from metaeol_udf.encoder.generic.text_model import TextModel
from metaeol_udf.encoder.generic.whole_pass import WholePass
from metaeol_udf.encoder.loading import Engine, check_room, check_splitting, choose_dtype
from metaeol_udf.encoder.proof import depends_on_length, find_horizons, longest_prompt, make_own_proof
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.prompts.trie import PrefixGroup, PromptTrie
from metaeol_udf.spec import EmbeddingSpec, output_layers

logger = logging.getLogger(__name__)


def share_engine(engine: Engine, loaded: EmbeddingSpec, spec: EmbeddingSpec, templates: TemplateSet) -> Engine | None:
    """Make an engine for another spec that uses the weights of an engine, or return None where the model must be loaded for it.

    The runner was proved against transformers when it was loaded. Here its vectors over the new trie are compared with its own of one
    whole prompt at a time.

    Args:
        engine: What is loaded.
        loaded: The resolved spec that it was loaded for.
        spec: The other spec, resolved.
        templates: Its template set.

    Raises:
        ConfigError: The prompts are too long for the model, or its tokenizer cannot split texts.
    """
    root = engine.root or engine
    if loaded.model_hash is None or (loaded.model_hash, loaded.quantization) != (spec.model_hash, spec.quantization):
        return None
    if choose_dtype(spec.dtype, root.device) != root.dtype:
        return None
    tokenizer = root.trie.tokenizer
    check_room(spec, templates, tokenizer, root.config)
    check_splitting(spec, tokenizer)
    layers = output_layers(spec.layer, root.n_layers)
    n_most = longest_prompt(tokenizer, templates, spec.max_tokens)
    unproved = set(find_horizons(root.config, n_most)) - set(find_horizons(root.config, root.n_most_tokens))
    if unproved or (depends_on_length(root.config, n_most) and not isinstance(root.runner, WholePass)):
        return None
    try:
        trie = PromptTrie(templates, tokenizer, may_cut=root.runner.has_prefixes)
        runner = _remake(root.runner, trie.groups, layers, n_most + spec.max_tokens)
        why = None
        if runner is not None:
            proof = make_own_proof(runner, root.config, tokenizer, templates, spec, len(layers), root.dtype)
            why = proof.judge(trie, runner)[1]
    except (MetaEOLError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever a foreign model does here, a load of its own is right
        logger.info("the loaded model cannot be used for another spec", exc_info=True)
        why = type(error).__name__
    if runner is None or why is not None:
        logger.info("the model is loaded again for another spec: %s", why or "it was loaded for fewer layers or shorter prompts")
        return None
    return dataclasses.replace(engine, trie=trie, runner=runner, n_states=len(layers), root=root)


def _remake(runner: Runner, groups: Sequence[PrefixGroup], layers: Sequence[int], n_positions: int) -> Runner | None:
    """Make a runner of a runner's model for other prefix groups and layers; None where the model does not have enough of it."""
    if isinstance(runner, WholePass):
        return runner.at(layers)
    if isinstance(runner, TriePass):
        return remake_decoder_pass(runner, groups, layers, n_positions)
    if not isinstance(runner, (SequencePass, ForkPass)) or layers[-1] > runner.text_model.taps[-1]:
        return None
    text_model = TextModel(runner.text_model.model, layers)
    return type(runner)(text_model, groups)
