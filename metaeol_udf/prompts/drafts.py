"""A template set of a user's own meta-tasks, from a form: one prefix a meta-task that asks for one word, and two short suffixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metaeol_udf.errors import ConfigError
from metaeol_udf.prompts.templates import TEXT_SLOT, PromptTemplate, TemplateSet

_SECOND_CUE = "Answer"
#: First line of a drafted file.
HEADER = "# A template set of your own: `embedding.templates` names this file. Reword it freely; `metaeol templates check` checks it.\n"


@dataclass(frozen=True)
class MetaTaskForm:
    """Holds what a user says of a meta-task.

    Attributes:
        name: What a text is asked for, as a noun: `urgency`, `product area`.
        options: Words that may come, named in the prefix so that the model knows what kind is meant.
        aspects: Other single words for the same, which the second suffix asks for. Empty: a neutral one.
    """

    name: str
    options: tuple[str, ...] = ()
    aspects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for word in (self.name, *self.options, *self.aspects):
            if not word.strip() or '"' in word or TEXT_SLOT in word:
                raise ConfigError(f'a meta-task and its options must be plain words without double quotes or {TEXT_SLOT}, found "{word}"')


def draft_templates(name: str, forms: Sequence[MetaTaskForm]) -> TemplateSet:
    """Draft a template set: two templates a meta-task, which share prefix and text pass.

    Raises:
        ConfigError: There is no meta-task.
    """
    return TemplateSet(name, "paper", tuple(template for form in forms for template in _draft(form)))


def _draft(form: MetaTaskForm) -> list[PromptTemplate]:
    name = " ".join(form.name.split())
    options = [" ".join(option.split()) for option in form.options]
    such_as = f", such as {_list(options)}" if options else ""
    prefix = f'Say in one word the {name} of a text{such_as}. Text: "'
    cues = [name, next((aspect for aspect in form.aspects if aspect.casefold() != name.casefold()), _SECOND_CUE)]
    return [PromptTemplate(name, f'{prefix}{TEXT_SLOT}" {cue[0].upper()}{cue[1:]}: "') for cue in cues]


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
