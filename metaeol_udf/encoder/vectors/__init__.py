"""From hidden states to the stored vector: the mean over templates, post-processing, scaling. Imports no torch."""
