"""Offline resolution selection: each example's own global view (stage 1)."""
