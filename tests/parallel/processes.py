"""Several processes of one run, on this machine."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


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
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
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
    codes = [process.wait(timeout=timeout) for process in running]
  finally:
    for process in running:
      process.kill()
  said = "\n".join(p.read_text()[-3000:] for p in sorted(logs.glob("log*")))
  assert codes == [0] * number, said
