"""The quality gate: whether another spec's vectors may replace those of a table."""
