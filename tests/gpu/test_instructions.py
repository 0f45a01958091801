"""The emulator's instructions, a family at a time, against Python's own arithmetic."""

import math

import numpy as np
import pytest

from tests.gpu.ptx import computed, execute

GENERATOR = np.random.default_rng(0)


def whole(dtype) -> np.ndarray:
    """Any numbers of a type, the largest and smallest among them."""
    limits = np.iinfo(dtype)
    values = GENERATOR.integers(limits.min, limits.max, 32, dtype, endpoint=True)
    values[:3] = limits.min, limits.max, 0
    return values


def real(dtype=np.float32) -> np.ndarray:
    values = GENERATOR.standard_normal(32).astype(dtype)
    values[:4] = math.nan, math.inf, -math.inf, -0.0
    return values


def wrapped(values, dtype) -> np.ndarray:
    """Python's numbers as a type that wraps."""
    bits = 8 * np.dtype(dtype).itemsize
    return np.array([int(v) & (1 << bits) - 1 for v in values], f"u{bits // 8}").view(dtype)


@pytest.mark.parametrize(
    ("operation", "python"),
    [
        ("add.s32 %0, %1, %2", lambda a, b: a + b),
        ("sub.s32 %0, %1, %2", lambda a, b: a - b),
        ("mul.lo.s32 %0, %1, %2", lambda a, b: a * b),
        ("mul.hi.s32 %0, %1, %2", lambda a, b: a * b >> 32),
        ("mad.lo.s32 %0, %1, %2, 7", lambda a, b: a * b + 7),
        ("min.s32 %0, %1, %2", min),
        ("xor.b32 %0, %1, %2", lambda a, b: a ^ b),
        ("div.s32 %0, %1, %2", lambda a, b: math.trunc(a / b) if b else -1),
        ("rem.s32 %0, %1, %2", lambda a, b: int(math.fmod(a, b)) if b else a + b),
        ("neg.s32 %0, %1", lambda a, b: -a),
        ("popc.b32 %0, %1", lambda a, b: (a & 0xFFFFFFFF).bit_count()),
        ("clz.b32 %0, %1", lambda a, b: 32 - (a & 0xFFFFFFFF).bit_length()),
        ("shl.b32 %0, %1, 5", lambda a, b: a << 5),
        ("shl.b32 %0, %1, 32", lambda a, b: 0),
        ("shr.s32 %0, %1, 40", lambda a, b: a >> 40),
        ("shr.u32 %0, %1, 3", lambda a, b: (a & 0xFFFFFFFF) >> 3),
        ("bfe.u32 %0, %1, 4, 9", lambda a, b: (a & 0xFFFFFFFF) >> 4 & 511),
        ("bfe.s32 %0, %1, 28, 4", lambda a, b: a >> 28),
        ("bfi.b32 %0, %1, %2, 8, 4", lambda a, b: b & ~0xF00 | (a & 15) << 8),
        ("lop3.b32 %0, %1, %2, %1, 0x3c", lambda a, b: a ^ b),
        ("prmt.b32 %0, %1, %2, 0x5410", lambda a, b: a & 0xFFFF | (b & 0xFFFF) << 16),
        ("prmt.b32 %0, %1, %2, 0x3333", lambda a, b: (a >> 24 & 255) * 0x01010101),
        ("shf.l.wrap.b32 %0, %1, %2, 4", lambda a, b: b << 4 | a >> 28 & 15),
    ],
)  # fmt: skip
def test_whole_numbers(operation, python):
    a, b = whole(np.int32), whole(np.int32)
    if "div" in operation or "rem" in operation:
        a[0], b[1] = 5, 3  # the smallest number by -1 has no quotient
    want = wrapped([python(int(x), int(y)) for x, y in zip(a, b, strict=True)], np.int32)
    assert computed(operation, [a, b], np.int32).tolist() == want.tolist()


def test_wide_and_long_products():
    a, b = whole(np.int32), whole(np.int32)
    want = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    assert computed("mul.wide.s32 %0, %1, %2", [a, b], np.int64).tolist() == want
    a, b = whole(np.int64), whole(np.int64)
    high = wrapped([int(x) * int(y) >> 64 for x, y in zip(a, b, strict=True)], np.int64)
    assert computed("mul.hi.s64 %0, %1, %2", [a, b], np.int64).tolist() == high.tolist()


@pytest.mark.parametrize(
    ("operation", "python"),
    [
        ("add.f32 %0, %1, %2", np.add),
        ("mul.f32 %0, %1, %2", np.multiply),
        ("div.rn.f32 %0, %1, %2", np.divide),
        ("min.f32 %0, %1, %2", np.fmin),
        ("max.f32 %0, %1, %2", np.fmax),
        ("abs.f32 %0, %1", lambda a, b: np.abs(a)),
        ("ex2.approx.f32 %0, %1", lambda a, b: np.exp2(a)),
        ("fma.rn.f32 %0, %1, %2, %1", lambda a, b: a.astype(float) * b + a),
    ],
)
def test_real_numbers(operation, python):
    a, b = real(), real()[::-1].copy()
    with np.errstate(all="ignore"):
        want = python(a, b).astype(np.float32)
    np.testing.assert_array_equal(computed(operation, [a, b], np.float32), want)


@pytest.mark.parametrize(
    ("comparison", "of_nan"), [("lt", False), ("ltu", True), ("eq", False), ("neu", True)]
)
def test_comparisons_with_nan(comparison, of_nan):
    a, b = real(), real()
    found = computed(f"setp.{comparison}.f32 %p1, %1, %2; selp.b32 %0, 1, 0, %p1", [a, b], np.int32)
    name = {"lt": np.less, "ltu": np.less, "eq": np.equal, "neu": np.not_equal}[comparison]
    want = np.where(np.isnan(a) | np.isnan(b), of_nan, name(a, b))
    assert found.astype(bool).tolist() == want.tolist()


def test_conversions():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, math.nan] * 4, np.float32)
    found = computed("cvt.rni.s32.f32 %0, %1", [values], np.int32)[:8]
    assert found.tolist() == [0, 2, 2, 0, -2, 2**31 - 1, -(2**31), 0]
    found = computed("cvt.rzi.u32.f32 %0, %1", [values], np.uint32)[:6]
    assert found.tolist() == [0, 1, 2, 0, 0, 3_000_000_000]
    found = computed("cvt.rn.bf16x2.f32 %0, %1, %1", [real()], np.uint32)
    assert (found >> 16 == found & 0xFFFF).all()
    near = np.array([1 + 2.0**-9, 1 + 3 * 2.0**-9] * 16, np.float32)  # between two of bfloat16
    found = computed("cvt.rn.bf16.f32 %0, %1", [near], np.uint16)
    assert found[:2].tolist() == [0x3F80, 0x3F81]
    found = computed("cvt.rna.tf32.f32 %0, %1", [near], np.uint32)
    assert found.view(np.float32).tolist() == near.tolist()


def test_words_are_taken_apart_and_put_together():
    values = whole(np.int64)
    found = computed("mov.b64 {%r1, %r2}, %1; mov.b64 %0, {%r2, %r1}", [values], np.int64)
    assert found.view(np.uint32)[::2].tolist() == values.view(np.uint32)[1::2].tolist()


@pytest.mark.parametrize(
    ("operation", "source"),
    [
        ("bfly.b32 %0, %1, 3, 31", lambda i: i ^ 3),
        ("idx.b32 %0, %1, 5, 31", lambda i: 5),
        ("up.b32 %0, %1, 2, 0", lambda i: i - 2 if i >= 2 else i),
        ("down.b32 %0, %1, 4, 31", lambda i: i + 4 if i < 28 else i),
        ("idx.b32 %0, %1, 1, 0x181f", lambda i: i & 24 | 1),  # in segments of 8
    ],
)
def test_shuffles(operation, source):
    values = whole(np.int32)
    found = computed(f"shfl.sync.{operation}, -1", [values], np.int32)
    assert found.tolist() == [values[source(i)] for i in range(32)]


def test_votes_and_reductions():
    values = whole(np.int32)
    found = computed(
        "setp.lt.s32 %p1, %1, 0; vote.sync.ballot.b32 %0, %p1, -1", [values], np.uint32
    )
    assert found[0] == sum(1 << i for i, value in enumerate(values) if value < 0)
    found = computed("redux.sync.max.s32 %0, %1, -1", [values], np.int32)
    assert found.tolist() == [values.max()] * 32


def test_threads_part_and_join_again():
    out = np.zeros(64, np.int32)
    execute(
        "and.b32 %r1, %r0, 3; mov.u32 %r2, 0; mov.u32 %r5, 0;"
        "$loop: setp.ge.u32 %p1, %r2, %r1; @%p1 bra $done;"
        "add.s32 %r5, %r5, %r0; add.s32 %r2, %r2, 1; bra $loop;"
        "$done: mul.wide.u32 %d1, %r0, 4; add.s64 %d1, %d1, %d0; st.global.b32 [%d1], %r5;",
        out,
        threads=64,
    )
    assert out.tolist() == [i * (i & 3) for i in range(64)]


def test_functions_are_called():
    out = np.zeros(32, np.int32)
    twice = (
        ".func (.param .b32 result) twice(.param .b32 twice_param_0) { .reg .b32 %r<3>;"
        "ld.param.u32 %r1, [twice_param_0]; add.s32 %r2, %r1, %r1;"
        "st.param.b32 [result+0], %r2; ret; }"
    )
    call = (
        "{ .param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 retval0;"
        "call.uni (retval0), twice, (param0); ld.param.b32 %r1, [retval0+0]; }"
    )
    execute(
        f"mov.u32 %r1, %r0; {call} {call} mul.wide.u32 %d1, %r0, 4; add.s64 %d1, %d1, %d0;"
        "st.global.b32 [%d1], %r1;",
        out,
        functions=twice,
    )
    assert out.tolist() == [4 * i for i in range(32)]
