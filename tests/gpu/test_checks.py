"""What the emulator finds: accesses out of bounds, races, copies and products in flight."""

import numpy as np
import pytest

from tests.errors import raises
from tests.gpu.emulator import Fault, Mode
from tests.gpu.emulator.copies import tensor_map
from tests.gpu.emulator.matrices import operand_bytes
from tests.gpu.ptx import execute

OWN = "mul.lo.u32 %r1, %r0, 4;"  # where a thread's word of shared memory is
SHARED = ".extern .shared .align 16 .b8 room[];"
BASE = "mov.u32 %r9, room; add.s32 %r1, %r1, %r9;"
OUT = "mul.wide.u32 %d9, %r0, 4; add.s64 %d9, %d9, %d0;"


def shared(body: str, out: np.ndarray, threads: int = 64, **options) -> None:
    execute(OWN + BASE + OUT + body, out, threads=threads, shared=1024, before=SHARED, **options)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (OUT + "st.global.b32 [%d9+4], %r0;", ("out of bounds", "store")),
        (OUT + "ld.global.b32 %r1, [%d9+-4];", ("out of bounds", "load")),
        (OUT + "ld.global.b64 %d3, [%d9];", ("misaligned", "load")),
        ("madd.x %r1, %r0;", ("not emulated", "madd.x")),
        ("setp.lt.u32 %p1, %r0, 8; @%p1 ret; shfl.sync.idx.b32 %r1, %r0, 0, 31, -1;", ("part",)),
        ("setp.lt.u32 %p1, %r0, 8; @%p1 bra $there; bar.sync 0; $there: ret;", ("part", "bar")),
    ],
)
def test_faults_of_threads(body, named):
    with raises(Fault, *named):
        execute(body, np.zeros(32, np.int32))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("ld.shared.b32 %r2, [%r1];", ("nothing wrote",)),
        ("ld.shared.b32 %r2, [%r1+1024];", ("out of bounds",)),
        ("st.shared.b32 [%r1+2], %r0;", ("misaligned",)),
        ("xor.b32 %r2, %r1, 128; st.shared.b32 [%r1], %r0; ld.shared.b32 %r3, [%r2];",
         ("another warp wrote", "barrier")),
        ("xor.b32 %r2, %r1, 128; st.shared.b32 [%r1], %r0; bar.sync 0; ld.shared.b32 %r3, [%r2];"
         "st.shared.b32 [%r1], %r3;", ("another warp read", "barrier")),
        ("and.b32 %r2, %r1, 127; st.shared.b32 [%r2], %r0;", ("different values",)),
        ("cp.async.ca.shared.global [%r1], [%d9], 4; cp.async.commit_group;"
         "ld.shared.b32 %r2, [%r1];", ("not yet",)),
        ("cp.async.ca.shared.global [%r1], [%d9], 4; cp.async.commit_group;", ("in flight",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("late", [True, False])
def test_faults_of_shared_memory(body, named, late):
    with raises(Fault, *named):
        shared(body, np.zeros(64, np.int32), mode=Mode(late, late, late))


@pytest.mark.parametrize("late", [True, False])
def test_copies_arrive_when_they_are_waited_for(late):
    out = np.arange(64, dtype=np.int32)
    shared(
        "cp.async.ca.shared.global [%r1], [%d9], 4; cp.async.commit_group;"
        "cp.async.wait_group 0; bar.sync 0; xor.b32 %r2, %r1, 252; ld.shared.b32 %r3, [%r2];"
        "st.global.b32 [%d9], %r3;",
        out,
        mode=Mode(late, late, late),
    )
    assert out.tolist() == list(range(64))[::-1]


COUNT = (
    "setp.ne.u32 %p1, %r0, 0; @%p1 ret; atom.global.add.u32 %r1, [%d0], 1; {}"
    "atom.global.add.u32 %r2, [%d0+4], 1; setp.ne.u32 %p2, %r2, 5; @%p2 ret;"
    "atom.global.add.u32 %r3, [%d0], 0; st.global.b32 [%d0+8], %r3;"
)


def last_count(fence: str) -> int:
    """What the last of six blocks sees of the others' counts."""
    out = np.zeros(3, np.int32)
    execute(COUNT.format(fence), out, blocks=6)
    return int(out[2])


def test_writes_are_seen_late_without_a_fence():
    assert {last_count("fence.acq_rel.gpu;") for _ in range(10)} == {6}
    assert len({last_count("") for _ in range(10)}) > 1


def test_products_of_a_warp():
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-8, 8, size).astype(np.int8) for size in ((16, 32), (8, 32)))
    out, lane = np.zeros((32, 4), np.int32), np.arange(32)
    left = np.stack([
        a[lane // 4 + 8 * (q % 2)].reshape(32, 2, 4, 4)[lane, q // 2, lane % 4] for q in range(4)
    ], 1).copy().view(np.uint32)[..., 0]  # fmt: skip
    right = np.stack([b[lane // 4].reshape(32, 2, 4, 4)[lane, q, lane % 4] for q in range(2)], 1)
    right = right.copy().view(np.uint32)[..., 0]
    given = np.concatenate([left, right], 1).copy()
    execute(
        "mul.wide.u32 %d3, %r0, 24; add.s64 %d3, %d3, %d1; ld.global.v2.b32 {%r1, %r2}, [%d3];"
        "ld.global.v2.b32 {%r3, %r4}, [%d3+8]; ld.global.v2.b32 {%r5, %r6}, [%d3+16];"
        "mov.u32 %r7, 1; mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32"
        " {%r10, %r11, %r12, %r13}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, {%r7, %r7, %r7, %r7};"
        "mul.wide.u32 %d3, %r0, 16; add.s64 %d3, %d3, %d0;"
        "st.global.v4.b32 [%d3], {%r10, %r11, %r12, %r13};",
        out,
        given,
    )
    want = a.astype(np.int32) @ b.astype(np.int32).T + 1
    slots = np.arange(4)
    found = want[(lane // 4)[:, None] + 8 * (slots // 2), (lane % 4 * 2)[:, None] + slots % 2]
    assert out.tolist() == found.tolist()


def test_rows_of_a_swizzled_operand_are_a_permutation_of_the_banks():
    at = operand_bytes(1 << 62 | 64 << 32, 64, 64, 2, False)
    assert sorted(at.reshape(-1)) == list(range(64 * 128))
    assert len(set(at[:8, 0] // 4 % 32)) == 8  # the first bytes of eight rows
    assert at[1, 16] == 128 + 0  # the second row has its first two parts exchanged


PRODUCT = (
    "{store} {fence} bar.sync 0; mov.b64 %d5, {at}; {wgfence}"
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16"
    " {{%f1, %f2, %f3, %f4}}, %d5, %d5, 0, 1, 1, 0, 0;"
    "wgmma.commit_group.sync.aligned; {wait} mul.wide.u32 %d9, %r0, 4; add.s64 %d9, %d9, %d0;"
    "st.global.f32 [%d9], %f1;"
)
GOOD = {
    "store": "mul.lo.u32 %r1, %r0, 16; mov.u32 %r9, room; add.s32 %r1, %r1, %r9;"
    "mov.u32 %r2, 0x3f803f80; st.shared.v4.b32 [%r1], {%r2, %r2, %r2, %r2};"
    "st.shared.v4.b32 [%r1+2048], {%r2, %r2, %r2, %r2};",
    "fence": "fence.proxy.async.shared::cta;",
    "at": str(1 << 62 | 64 << 32),
    "wgfence": "wgmma.fence.sync.aligned;",
    "wait": "wgmma.wait_group.sync.aligned 0;",
}


def product(**changes: str) -> np.ndarray:
    out = np.zeros(128, np.float32)
    body = PRODUCT.format(**GOOD | changes)
    execute(body, out, threads=128, shared=16384, before=SHARED)
    return out


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"fence": ""}, ("fence.proxy.async",)),
        ({"wgfence": ""}, ("wgmma.fence",)),
        ({"store": ""}, ("nothing wrote",)),
        ({"at": str(1 << 62 | 64 << 32 | 900)}, ("out of bounds",)),
        ({"wait": ""}, ("in flight",)),
    ],
)
def test_products_of_a_warpgroup(changes, named):
    full = (
        GOOD["store"]
        + "st.shared.v4.b32 [%r1+4096], {%r2, %r2, %r2, %r2};"
        + ("st.shared.v4.b32 [%r1+6144], {%r2, %r2, %r2, %r2};")
    )
    assert product(store=full).tolist() == [16.0] * 128
    with raises(Fault, *named):
        product(**{"store": full} | changes)


TMA = (
    "mov.u32 %r9, room; setp.ne.u32 %p1, %r0, 0; @%p1 bra $wait;"
    "mbarrier.init.shared::cta.b64 [%r9], 1; "
    "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], 1024;"
    "mov.b64 %d4, param_1; mov.u32 %r3, 0; add.s32 %r4, %r9, 1024;"
    "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
    " [%r4], [%d4, {%r3, %r3}], [%r9];"
    "$wait: bar.sync 0; $spin: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r9], 0;"
    "@!%p2 bra $spin; mul.lo.u32 %r5, %r0, 4; add.s32 %r5, %r5, %r9;"
    "ld.shared.b32 %r6, [%r5+1024]; mul.wide.u32 %d9, %r0, 4; add.s64 %d9, %d9, %d0;"
    "st.global.b32 [%d9], %r6;"
)


def test_bulk_copies():
    """The first row of a box, of which the last ones are out of the table, arrives."""
    from tests.gpu.emulator import Memory, Program, launch

    table, out = np.arange(5 * 32, dtype=np.int32).reshape(5, 32), np.zeros(32, np.int32)
    registers = ".reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %d<12>;"
    program = Program(
        f"{SHARED} .entry kernel(.param .u64 param_0, .param .align 64 .b8 param_1[128]) {{"
        f"{registers} ld.param.u64 %d0, [param_0]; mov.u32 %r0, %tid.x; {TMA} ret; }}"
    )
    memory = Memory()
    for array in (table, out):
        memory.add(array.ctypes.data, array.nbytes)
    described = tensor_map(table.ctypes.data, table.shape, 128, (8, 32), 4)
    arguments = [int(out.ctypes.data).to_bytes(8, "little"), described]
    for late in (True, False):
        launch(program, memory, arguments, (1, 1, 1), 32, 4096, Mode(late, late, late))
        assert out.tolist() == table[0].tolist()
