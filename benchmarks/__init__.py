"""Measured comparisons: ratios side by side in one run, because machines drift. Nothing in here is a test."""
