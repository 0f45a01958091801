"""Clusters in the emulator: their barrier, arrivals at another block's barrier, and multicast."""

import numpy as np
import pytest

from tests.errors import raises
from tests.gpu.emulator import Fault, Memory, Mode, Program, launch
from tests.gpu.emulator.copies import tensor_map

BEGIN = (
    "mov.u32 %r0, %tid.x; mov.u32 %r1, %cluster_ctarank; mov.u32 %r9, room;"
    "setp.ne.u32 %p1, %r0, 0; ld.param.u64 %d0, [param_0];"
    "mov.u32 %r2, %ctaid.x; shl.b32 %r2, %r2, 5; add.s32 %r2, %r2, %r0;"
    "mul.wide.u32 %d9, %r2, 4; add.s64 %d9, %d9, %d0;"
)
TOGETHER = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;"
SPIN = "$spin: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r9], 0;@!%p2 bra $spin;"


def run(body: str, out: np.ndarray, table: np.ndarray | None = None, late: bool = True) -> None:
    """Run four blocks of 32 threads in clusters of two; %d9 is the address of a thread's output."""
    program = Program(
        ".extern .shared .align 16 .b8 room[];"
        ".entry kernel(.param .u64 param_0, .param .align 64 .b8 param_1[128]) {"
        ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<12>; .reg .b64 %d<12>;"
        f"{BEGIN} {body} ret; }}"
    )
    memory, described = Memory(), b""
    memory.add(out.ctypes.data, out.nbytes)
    if table is not None:
        memory.add(table.ctypes.data, table.nbytes)
        described = tensor_map(table.ctypes.data, table.shape, 128, (8, 32), 4)
    arguments = [int(out.ctypes.data).to_bytes(8, "little"), described]
    launch(program, memory, arguments, (4, 1, 1), 32, 4096, Mode(late, late, late), cluster=2)


def found(changes: dict[str, str], parts: dict[str, str], *arguments) -> str:
    """What one of some runs finds with changed parts of a program."""
    body = "".join((parts | changes).values())
    for late in (True, False) * 20:
        try:
            run(body, np.zeros(128, np.int32), *arguments, late=late)
        except Fault as error:
            return str(error)
    return "nothing was found"


def test_blocks_know_their_clusters():
    out = np.zeros(128, np.int32)
    run(
        "mov.u32 %r3, %clusterid.x; mov.u32 %r4, %nclusterid.x; mov.u32 %r5, %cluster_nctarank;"
        "mov.u32 %r6, %cluster_ctaid.x; mad.lo.s32 %r1, %r1, 10, %r3;"
        "mad.lo.s32 %r1, %r4, 100, %r1;"
        "mad.lo.s32 %r1, %r5, 1000, %r1; mad.lo.s32 %r1, %r6, 10000, %r1;"
        "st.global.b32 [%d9], %r1;",
        out,
    )
    assert out[::32].tolist() == [2200, 12210, 2201, 12211]
    with raises(Fault, 4, "clusters of 3"):
        launch(Program(".entry kernel() { ret; }"), Memory(), [], (4, 1, 1), 32, cluster=3)


ARRIVE = {
    "init": "@!%p1 mbarrier.init.shared::cta.b64 [%r9], 64;",
    "begin": TOGETHER,
    "map": "mov.u32 %r3, 0; mapa.shared::cluster.u32 %r4, %r9, %r3;"
    "mov.u32 %r3, 1; mapa.shared::cluster.u32 %r5, %r9, %r3;",
    "arrive": "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r4];"
    "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r5];",
    "wait": SPIN,
    "end": TOGETHER,
}


@pytest.mark.parametrize("late", [True, False])
def test_threads_arrive_at_the_barriers_of_both_blocks(late):
    run("".join(ARRIVE.values()), np.zeros(128, np.int32), late=late)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"init": "@!%p1 mbarrier.init.shared::cta.b64 [%r9], 65;"}, "wait for ever"),
        ({"init": ARRIVE["init"].replace(", 64;", ", 32;"), "wait": "", "end": ""}, "end"),
        ({"begin": ""}, "without"),
        ({"begin": "barrier.cluster.arrive;" + TOGETHER}, "twice"),
        ({"map": ARRIVE["map"].replace("1;", "2;")}, "mapa"),
        ({"arrive": ARRIVE["arrive"].replace("shared::cluster", "shared::cta")}, "without init"),
        ({"wait": "", "end": ""}, "end"),
    ],
)
def test_faults_of_arrivals(changes, named):
    assert named in found(changes, ARRIVE)


MULTICAST = {
    "init": "@!%p1 mbarrier.init.shared::cta.b64 [%r9], 1;",
    "begin": TOGETHER,
    "expect": "@!%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], 2048;",
    "place": "mov.b64 %d4, param_1; mov.u32 %r3, 0; shl.b32 %r4, %r1, 10; add.s32 %r5, %r9, %r4;"
    "add.s32 %r5, %r5, 1024; shl.b32 %r6, %r1, 3;",
    "mask": "mov.b16 %h1, 3;",
    "copy": "@!%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
    ".multicast::cluster [%r5], [%d4, {%r3, %r6}], [%r9], %h1;",
    "wait": SPIN,
    "read": "mul.lo.u32 %r7, %r0, 64; add.s32 %r7, %r7, %r9; ld.shared.b32 %r8, [%r7+1024];"
    "st.global.b32 [%d9], %r8;",
    "end": TOGETHER,
}
TABLE = np.arange(16 * 32, dtype=np.int32).reshape(16, 32)


@pytest.mark.parametrize("late", [True, False])
def test_bulk_copies_to_both_blocks(late):
    """Each block copies half of the rows to both; a thread reads a half of a row."""
    out = np.zeros(128, np.int32)
    run("".join(MULTICAST.values()), out, TABLE, late)
    place = np.arange(32) * 64
    wanted = TABLE.reshape(-1)[(place ^ (place >> 7 & 7) << 4) // 4]
    assert out.reshape(4, 32).tolist() == [wanted.tolist()] * 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"begin": ""}, "mbarrier"),
        ({"mask": "mov.b16 %h1, 1;"}, "wait for ever"),
        ({"mask": "mov.b16 %h1, 7;"}, "block 2"),
        ({"wait": ""}, "nothing wrote"),
        ({"wait": "", "read": "", "end": ""}, "end"),
        ({"expect": MULTICAST["expect"].replace("2048", "1024"), "read": ""}, "in flight"),
    ],
)
def test_faults_of_multicast(changes, named):
    assert named in found(changes, MULTICAST, TABLE)
