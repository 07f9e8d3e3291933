"""Prompts, tokens, and the data the policy learns from."""
