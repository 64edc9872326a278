"""Other people's engines on the same model, prompts and texts, each in an environment and a process of its own."""
