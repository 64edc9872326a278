"""Runners for any decoder LLM, through transformers' own modules: one token sequence, forked caches, whole prompts."""
