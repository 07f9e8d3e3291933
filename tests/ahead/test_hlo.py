"""Collectives are read from a program's text, as often as they run."""

from lfpc_jax.ahead.hlo import collectives

TEXT = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %all-gather.1 = bf16[16,4]{1,0:T(8,128)(2,1)} all-gather(%x), dimensions={0}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %x)
}

%open_body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %r = (f32[8,4]{1,0}, f32[2]{0}) all-reduce(%x, %y), to_apply=%add
  %w2 = s32[] while(%p), body=%body, b={"known_trip_count":{"n":"3"}}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %r)
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %w = s32[] while(%init), body=%body, b={"known_trip_count":{"n":"28"}}
  %v = (s32[], f32[8,4]{1,0}) while(%w), condition=%c, body=%open_body
  %s = (f32[8,4], f32[2,4]) reduce-scatter-start(%a), dimensions={0}
  ROOT %d = f32[2,4]{1,0} reduce-scatter-done(%s)
}
"""


def test_loops_multiply_what_is_inside():
  found = [(c.kind, c.times, c.open_loop, c.bytes) for c in collectives(TEXT)]
  assert found == [
    ("all-gather", 28, False, 128),
    ("all-reduce", 1, True, 136),
    ("all-gather", 3, True, 128),
    ("reduce-scatter", 1, False, 128),
  ]


COUNTED = """HloModule jit_scan

%cond (p: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(4)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%start (x: f32[4]) -> f32[16] {
  %g = f32[16]{0} all-gather(%x), channel_id=7, dimensions={0}
}

%done (x: f32[4]) -> f32[16] {
  %g = f32[16]{0} all-gather(%x), channel_id=7, dimensions={0}
}

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = f32[16]{0} fusion(%x), kind=kLoop, calls=%start
  %b = f32[16]{0} fusion(%a), kind=kLoop, calls=%done
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%init), condition=%cond, body=%body
}
"""


def test_a_scan_counts_and_an_asynchronous_collective_is_one():
  (found,) = collectives(COUNTED)
  assert (found.times, found.open_loop, found.bytes) == (4, False, 64)


def test_a_program_without_collectives_has_none():
  assert collectives("HloModule m\n\nENTRY %main () -> f32[] {\n}\n") == []
