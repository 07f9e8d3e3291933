"""Compiling for accelerators that are not there, and reading the outcome."""
