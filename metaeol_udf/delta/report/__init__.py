"""A finished run's figures for other systems, and the sample of vectors for its page."""
