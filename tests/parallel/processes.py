"""Several processes of one run, on this machine."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


@contextlib.contextmanager
def held_port():
  """A port for one's own processes: from now on nobody else is given it.

  gRPC's servers share a port with whoever allows it as well, and one that only
  holds it is sent nothing.
  """
  with socket.socket() as held:
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    yield held.getsockname()[1]


def run(module, arguments, logs, number, devices, timeout=1500):
  """Runs a module in so many processes, each with so many CPU devices.

  Args:
    module: what `python -m` runs.
    arguments: of each.
    logs: folder of what they print.
    number: of processes; one is alone, and joins nothing.
    devices: of each.
    timeout: seconds for all.
  """
  with held_port() as port:
    codes = _run(module, arguments, logs, number, devices, timeout, port)
  said = "\n".join(p.read_text()[-3000:] for p in sorted(logs.glob("log*")))
  assert codes == [0] * number, said


def _run(module, arguments, logs, number, devices, timeout, port):
  """The exit codes of the processes."""
  running = []
  for index in range(number):
    environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": str(devices),
    }
    if number > 1:
      environment |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(number),
        "JAX_PROCESS_ID": str(index),
      }
    log = (logs / f"log{index}.txt").open("w")
    running.append(
      subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
      )
    )
  try:
    return [process.wait(timeout=timeout) for process in running]
  finally:
    for process in running:
      process.kill()
