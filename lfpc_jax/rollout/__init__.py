"""Sampling: the tool call read from tokens, and the episode."""
