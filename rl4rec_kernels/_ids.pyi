"""Lists of ids as arrays, and checks of them, see csrc/ids/module.cpp."""

from typing import Any

from numpy import bool_, int64
from numpy.typing import NDArray

_Ids = NDArray[int64]

def pack(rows: list[Any], drop_padding: bool) -> tuple[_Ids, _Ids, int] | None: ...
def prepend(columns: _Ids, values: _Ids, offsets: _Ids) -> tuple[_Ids, _Ids]: ...
def clean(
    values: _Ids, offsets: _Ids, targets: _Ids
) -> tuple[_Ids | None, _Ids | None, int, int]: ...
def first_bad(ids: _Ids, num_rows: int, valid: NDArray[bool_] | None) -> int: ...
