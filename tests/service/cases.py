"""Items, calls and answers shared by the tests of the service."""

import random
from typing import Any, NamedTuple

import torch

from rl4rec_kernels import RankCounts
from rl4rec_kernels.service.calls import Ranked

COLOURS = ("red", "blue", "green", "pink", "black", "white")
KINDS = ("glitter", "matte", "organic", "travel size", "kids'", "classic", "gift")
THINGS = (
    "nail polish",
    "shampoo",
    "perfume",
    "lipstick",
    "hand cream",
    "hair brush",
    "soap",
    "eyeliner",
    "face mask",
    "bath salt",
    "hair dye",
    "sunscreen",
)

METADATA = {
    i: {"title": f"{colour} {kind} {thing}"}
    for i, (colour, kind, thing) in enumerate(
        ((c, k, t) for c in COLOURS for k in KINDS for t in THINGS), 1
    )
}  # 504 items


class Call(NamedTuple):
    """A call of a service's method: its name, and arguments by position."""

    method: str
    arguments: tuple[Any, ...]


def make_calls(count: int, seed: int, texts: int = 2) -> list[Call]:
    """Calls of all kinds: with negatives, histories, or all items; counts, scores and more."""
    draw = random.Random(seed)
    ids = list(METADATA)
    calls = []
    for number in range(count):
        said = [f"a {draw.choice(THINGS)} in {draw.choice(COLOURS)}" for _ in range(texts)]
        targets = [draw.choice(ids) for _ in said]
        negatives = [draw.sample(ids, draw.randint(1, 20)) for _ in said]
        kind = number % 7
        if kind > 3:
            temperature = draw.choice([0.05, 0.2, 1.0])
            extra = ((negatives, None), (None, negatives), (None, None))[kind - 4]
            calls.append(Call("rank_with_log_prob", (said, "toys", targets, *extra, temperature)))
        elif kind == 3:
            calls.append(Call("calculate_reward", (said, "toys", targets, negatives)))
        else:
            extra = ((negatives, None), (None, negatives), (None, None))[kind]
            calls.append(Call("rank", (said, "toys", targets, *extra)))
    return calls


def is_same(got: Any, want: Any) -> bool:
    """Whether two answers are equal: counts exactly, the others up to their last bits.

    The last bits depend on the batch that a text was encoded in.
    """
    if isinstance(want, RankCounts):
        return torch.equal(torch.stack(got), torch.stack(want))
    if isinstance(want, Ranked):
        is_near = torch.allclose(got.log_probs, want.log_probs, rtol=0, atol=1e-4)
        return is_near and is_same(got.counts, want.counts)
    return torch.allclose(got, want, rtol=0, atol=1e-5)
