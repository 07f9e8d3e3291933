"""What the compiler's error says of memory, and what of it is shown."""

import io

import rich.console

from lfpc_jax.ahead import checking, chips, command, cost, programs, refusals

GIB = 2**30
# Laid out as XLA:TPU lays it out; the program and its figures are made up.
REPORT = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used \
24.50G of 15.75G hbm. Exceeded hbm capacity by 8.75G.

Total hbm usage >= 24.75G:
    reserved        258.00M
    program          20.25G
    arguments         4.25G

Program hbm requirement 20.25G:
    global            36.0K
    HLO temp         20.25G (98.1% utilization: Unpadded (19.86G))

  Largest program allocations in hbm:

  1. Size: 1.50G
     Operator: op_name="jit(update)/while/body/dot_general"
     Shape: bf16[16,2049,3584]{2,1,0:T(8,128)(2,1)}
     Unpadded size: 1.50G
     XLA label: %fusion.7 = bf16[16,2049,3584]{2,1,0} fusion(f32[2]{0} %p)
     Allocation type: HLO temp
     ==========================

  2. Size: 6.00G
     Shape: f32[8,152064,1344]{2,1,0:T(8,128)}
     Unpadded size: 6.00G
     Allocation type: HLO temp
     ==========================

  3. Size: 512.0K
     Operator: op_name="jit(update)/add"
     Shape: f32[131072]{0:T(1024)}
     Unpadded size: 512.0K
     Allocation type: HLO temp
     ==========================

  4. Size: 512B
     Shape: f32[128]{0:T(256)}
     Allocation type: HLO temp
     ==========================
"""
SHORT = (
  "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
  "HLO temporaries (18.51G) exceeds available HBM (15.75G)."
)


def test_the_bytes_that_are_wanted():
  assert refusals.wanted(REPORT) == (24.5 * GIB, True)
  assert refusals.wanted(SHORT) == (18.51 * GIB, False)
  assert refusals.wanted("INVALID_ARGUMENT: no such operation") is None


def test_the_largest_come_first():
  found = refusals.largest(REPORT, 3)
  assert [x.bytes for x in found] == [6 * GIB, 1.5 * GIB, 512 * 2**10]
  assert found[0].shape == "f32[8,152064,1344]{2,1,0:T(8,128)}"
  assert [x.operator for x in found] == [
    "",
    "jit(update)/while/body/dot_general",
    "jit(update)/add",
  ]
  assert refusals.largest(REPORT)[-1].bytes == 512
  assert refusals.largest(SHORT) == []


class _Refuses:
  """A program that the compiler has no room for."""

  def lower(self, *arguments):
    return self

  def compile(self):
    raise RuntimeError(REPORT)


def test_a_refused_program_is_shown_with_its_allocations(monkeypatch):
  program = programs.Program("update", _Refuses(), (), cost.Work(1, 1), GIB)
  topology = chips.Topology("v5e:1x1", chips.device_of("v5e"), [None])
  outcome, text = checking.compile_one(program, topology)
  assert text == REPORT and not outcome.fits
  assert outcome.used == 25.5 * GIB  # with what training holds
  shown = io.StringIO()
  console = rich.console.Console(file=shown, width=140)
  console.print(command.refusal_table([outcome]))
  assert "update" in shown.getvalue()
  assert "6.00 │ f32[8,152064,1344]" in shown.getvalue()
  assert "jit(update)/while/body/dot_general" in shown.getvalue()
