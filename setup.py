"""What pyproject.toml cannot say: configs/ is installed inside the package."""

import setuptools

setuptools.setup(
  packages=[
    *setuptools.find_packages(include=["lfpc_jax*"]),
    "lfpc_jax.configs",
  ],
  package_dir={"lfpc_jax.configs": "configs"},
)
