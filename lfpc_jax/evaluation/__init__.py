"""Evaluation: held-out questions, crop-dependence probes, tables, records."""
