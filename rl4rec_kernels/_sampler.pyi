"""The compiled sampler, see csrc/sampler/module.cpp."""

import numpy as np
import numpy.typing as npt

def sample(
    num_items: int,
    seen: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    num_negatives: int,
    seed: int,
    user_ids: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None,
    first_item: int,
    num_threads: int,
) -> npt.NDArray[np.int64]: ...
def philox(counter: list[int], key: list[int]) -> list[int]: ...
