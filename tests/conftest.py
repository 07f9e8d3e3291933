"""Settings of all tests."""

import os

# The oracles' matrices are tiny: threads cost PyTorch more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
