"""Reports: result tables, learning curves, and the page of rollouts."""
