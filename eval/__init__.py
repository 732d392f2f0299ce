"""Evaluation: how good, how fast, compared with what."""
