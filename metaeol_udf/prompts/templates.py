"""Prompt templates and the sets they come in, built in or from a user's YAML file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from metaeol_udf.errors import ConfigError, did_you_mean
from metaeol_udf.files import is_file, parse_yaml, read_yaml
from metaeol_udf.formatting import shorten
from metaeol_udf.prompts.cleanup import CLEANUPS
from metaeol_udf.spec import EmbeddingSpec

TEXT_SLOT = "{text}"
WORD_ORDERS = ("as_written", "reversed")


@dataclass(frozen=True)
class PromptTemplate:
    """Holds a prompt with one slot for the text.

    Attributes:
        meta_task: What the template asks for, such as `sentiment`.
        prompt: The prompt, with `{text}` exactly once. Other braces are ordinary characters.
        word_order: How the text stands in the prompt: `as_written`, or `reversed`, its last word first.
    """

    meta_task: str
    prompt: str
    word_order: str = "as_written"

    def __post_init__(self) -> None:
        if self.word_order not in WORD_ORDERS:
            raise ConfigError(f"word_order must be one of {', '.join(WORD_ORDERS)}, found {reprlib.repr(self.word_order)}")
        slots = self.prompt.count(TEXT_SLOT)
        if slots != 1:
            raise ConfigError(f"prompt template {shorten(self.prompt, 200)!r} needs {TEXT_SLOT} exactly once, found {slots}")

    @property
    def prefix(self) -> str:
        """Return the characters before the text."""
        return self.prompt.partition(TEXT_SLOT)[0]

    @property
    def suffix(self) -> str:
        """Return the characters after the text."""
        return self.prompt.partition(TEXT_SLOT)[2]

    def order_words(self, cleaned_text: str) -> str:
        """Return a cleaned text as it stands in the prompt.

        A reversed text is its words, cut at white space, from the last to the first, with one space between them. What has no white
        space is one word. A decoder reads each word with those before it alone; backwards, with those behind it (ReverseEOL,
        arXiv:2606.05858).
        """
        return " ".join(reversed(cleaned_text.split())) if self.word_order == "reversed" else cleaned_text


@dataclass(frozen=True)
class TemplateSet:
    """Holds the prompt templates whose hidden states are averaged into one embedding.

    Attributes:
        name: For people; not part of the content.
        text_cleanup: `paper` or `none`, see `clean_text`.
        templates: In the order of `encode(..., per_template=True)`.
    """

    name: str
    text_cleanup: str
    templates: tuple[PromptTemplate, ...]

    def __post_init__(self) -> None:
        where = f"template set {shorten(self.name, 80)!r}"
        if self.text_cleanup not in CLEANUPS:
            found = reprlib.repr(self.text_cleanup)
            raise ConfigError(f"{where}: text_cleanup must be one of {', '.join(CLEANUPS)}, found {found}")
        if not self.templates:
            raise ConfigError(f"{where} has no templates")

    @classmethod
    def load(cls, name_or_path: str | Path) -> TemplateSet:
        """Load a built-in set by its name, or a user's set from a YAML file.

        Raises:
            ConfigError: No such set, or the file breaks the format.
        """
        if not isinstance(name_or_path, (str, Path)):
            kind = type(name_or_path).__name__
            raise ConfigError(f"embedding.templates must be a TemplateSet, the name of a built-in set or the path of a file, found {kind}")
        name, builtin = str(name_or_path), _builtin_files()
        if name in builtin:  # inside a wheel that Spark put on the path, which is no file that `open` knows
            return cls.from_mapping(parse_yaml(builtin[name].read_text(encoding="utf-8"), name), where=name)
        if not is_file(Path(name_or_path)):
            hint = did_you_mean(name, builtin)
            raise ConfigError(f"embedding.templates: no built-in set and no file {name[:200]!r}; {hint}")
        return cls.from_mapping(read_yaml(name_or_path, "template set"), where=name)

    @classmethod
    def from_mapping(cls, block: Any, where: str = "template set") -> TemplateSet:
        """Build a set from the mapping that its YAML file holds.

        Raises:
            ConfigError: A key is missing or unknown, or a template lacks its slot.
        """
        _expect_keys(block, {"name", "templates"}, {"text_cleanup"}, where)
        if not isinstance(block["templates"], list):
            raise ConfigError(f"{where}: templates must be a list")
        for entry in block["templates"]:
            _expect_keys(entry, {"meta_task", "prompt"}, {"word_order"}, f"{where}: templates")
            if not all(isinstance(value, str) for value in entry.values()):
                raise ConfigError(f"{where}: meta_task, prompt and word_order must be strings")
        try:
            templates = tuple(PromptTemplate(**entry) for entry in block["templates"])
            return cls(str(block["name"]), block.get("text_cleanup", "paper"), templates)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_spec(cls, spec: EmbeddingSpec) -> TemplateSet:
        """Return the set that a spec names: from its content where it is resolved, else from the name or path."""
        if spec.templates_json is None:
            return cls.load(spec.templates)
        return cls.from_mapping({"name": spec.templates, **json.loads(spec.templates_json)})

    def to_json(self) -> str:
        """Return the content that changes vectors, in one canonical form: clean-up and templates, not the name."""
        return json.dumps(self._content(), sort_keys=True)

    def to_yaml(self) -> str:
        """Return the file that `load` reads again: name, clean-up and templates, each prompt on one line."""
        return yaml.safe_dump({"name": self.name, **self._content()}, sort_keys=False, allow_unicode=True, width=100_000)

    def _content(self) -> dict[str, Any]:
        templates = [dataclasses.asdict(template) for template in self.templates]
        for template in templates:
            if template["word_order"] == "as_written":  # as in sets that were written before there was another order
                del template["word_order"]
        return {"text_cleanup": self.text_cleanup, "templates": templates}

    @property
    def most_growth(self) -> float:
        """Return how many times as many tokens a trimmed text may have in a prompt: words in another order are other tokens."""
        return 1.5 if any(template.word_order == "reversed" for template in self.templates) else 1.0

    def digest(self) -> str:
        """Compute the SHA-256 of the content, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def fill(self, template: PromptTemplate, cleaned_text: str) -> str:
        """Return the prompt for a cleaned text: what `reference.py` gives the model, and what every fast path must equal.

        The text is put in as it is: braces and slots inside it are characters like any other.
        """
        prompt = template.prefix + template.order_words(cleaned_text) + template.suffix
        return prompt.strip() if self.text_cleanup == "paper" else prompt


def builtin_names() -> list[str]:
    """List the names of the template sets that ship with the package."""
    return sorted(_builtin_files())


def _builtin_files() -> dict[str, Any]:
    folder = resources.files("metaeol_udf.prompts") / "sets"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


def _expect_keys(block: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(block, dict):
        raise ConfigError(f"{where} must be a mapping, found {type(block).__name__}")
    for key in block:
        if key not in required | optional:
            raise ConfigError(f"{where}: unknown key {shorten(str(key), 80)!r}; {did_you_mean(str(key), required | optional)}")
    for key in sorted(required - set(block)):
        raise ConfigError(f"{where}: {key!r} is missing")
