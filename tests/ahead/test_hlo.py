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


BETWEEN = """HloModule jit_update

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %g = f32[16,4]{1,0:T(8,128)} all-gather(%x), channel_id=1, dimensions={0}
  %t = token[] after-all()
  %send.1 = (f32[16,4]{1,0:T(8,128)}, u32[], token[]) send(%g, %t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_GATHER"}
  %recv.1 = (f32[1,16,4]{2,1,0}, u32[], token[]) recv(%t), channel_id=7, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_GATHER"}
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %w = s32[] while(%init), body=%body, b={"known_trip_count":{"n":"28"}}
  %send.2 = (f32[2]{0}, u32[], token[]) send(%x, %t), channel_id=9, is_host_transfer=true
}
"""  # noqa: E501


def test_what_goes_to_other_slices_is_told_apart():
  found = [(c.kind, c.times, c.bytes, c.leaves) for c in collectives(BETWEEN)]
  assert found == [
    ("all-gather", 28, 256, False),
    ("all-gather between slices", 28, 256, True),
  ]


def test_a_program_without_collectives_has_none():
  assert collectives("HloModule m\n\nENTRY %main () -> f32[] {\n}\n") == []
