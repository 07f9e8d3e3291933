"""Settings of all tests."""

import os

import hypothesis

# The oracles' matrices are tiny: threads cost PyTorch more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a shell or a CI sets for people's eyes would stand in what is compared.
for _name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
  os.environ.pop(_name, None)
# Servers of tests are on this machine; a proxy does not know them.
for _name in ("no_proxy", "NO_PROXY"):
  _hosts = os.environ.get(_name, "").split(",")
  os.environ[_name] = ",".join(filter(None, [*_hosts, "127.0.0.1"]))
# A key of the user's own is for no judge of a test.
os.environ.pop("LFPC_JUDGE_KEY", None)

# The same examples in every run, whatever time they take on a busy machine;
# --hypothesis-profile=default draws others.
hypothesis.settings.register_profile(
  "steady",
  derandomize=True,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("steady")
