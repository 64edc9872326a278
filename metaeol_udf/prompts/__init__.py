"""Meta-tasks, prompt templates, template sets, text clean-up and the prompt trie. Imports neither Spark nor torch."""

from metaeol_udf.prompts.cleanup import clean_text
from metaeol_udf.prompts.templates import TEXT_SLOT, PromptTemplate, TemplateSet

__all__ = ["TEXT_SLOT", "PromptTemplate", "TemplateSet", "clean_text"]
