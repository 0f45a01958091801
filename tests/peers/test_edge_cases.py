"""Cases in which other libraries differ from ours, one target each: the table of docs/peers.md."""

import math

import numpy as np
import pytest

from benchmarks.peers import METRICS
from tests.peers.runs import Ranked, of_scores

NAN = math.nan
OTHERS = [float(score) for score in range(20, 0, -1)]
RANK_6 = {"ndcg@10": 1 / math.log2(7), "hit@10": 1, "mrr@10": 1 / 6, "mrr": 1 / 6}
RANK_7 = {"ndcg@10": 1 / math.log2(8), "hit@10": 1, "mrr@10": 1 / 7, "mrr": 1 / 7}
FIRST = {"ndcg@10": 1, "hit@10": 1, "mrr@10": 1, "mrr": 1}
LAST = {"ndcg@10": 0, "hit@10": 0, "mrr@10": 0, "mrr": 1 / 21}
IDEAL_DCG = sum(1 / math.log2(rank + 1) for rank in range(1, 11))

CASES = {
    "distinct scores": of_scores([15.5, *OTHERS]),
    "target 0, others below": of_scores([0.0, *(-s for s in OTHERS)]),
    "NaN target": of_scores([NAN, *OTHERS]),
    "NaN competitor": of_scores([15.5, NAN, *OTHERS]),
    "-inf competitor": of_scores([15.5, -math.inf, *OTHERS]),
    "target repeated": of_scores([15.5, 15.5, *OTHERS], [1, 1, *range(2, 22)]),
    "competitor repeated": of_scores([15.5, 20.0, *OTHERS], [1, 2, *range(2, 22)]),
}
OURS = {
    "distinct scores": RANK_6,
    "target 0, others below": FIRST,
    "NaN target": LAST,
    "NaN competitor": RANK_6,
    "-inf competitor": RANK_6,
    "target repeated": RANK_6,
    "competitor repeated": RANK_7,
}

# What each peer returns if it differs from ours: values, or the error that it raises.
Answer = dict[str, float] | type[Exception]
RAISES = {case: ValueError for case in ("NaN target", "NaN competitor", "-inf competitor")}
TIED_WITH_ITSELF = (1 / math.log2(7) + 1 / math.log2(8)) / 2
DIFFERENT: dict[str, dict[str, Answer]] = {
    "torchmetrics": {
        "target 0, others below": {"mrr@10": 0},
        "NaN target": {"hit@10": 1},
        "NaN competitor": {"mrr@10": 1 / 7},
        "target repeated": {"ndcg@10": TIED_WITH_ITSELF},
    },
    "scikit-learn": {**RAISES, "target repeated": {"ndcg@10": TIED_WITH_ITSELF}},
    "pytrec_eval": {"competitor repeated": RANK_6},
    "ranx": {"competitor repeated": RANK_6},
    "RecTools, divide_by_achievable": {
        "NaN target": FIRST,
        "NaN competitor": RANK_7,
        # Both columns are relevant and are found, at ranks 6 and 7.
        "target repeated": {"ndcg@10": 2 * TIED_WITH_ITSELF / (1 + 1 / math.log2(3))},
    },
    "RecBole": {"NaN target": FIRST, "NaN competitor": RANK_7, "competitor repeated": RANK_6},
}


@pytest.mark.parametrize("case", CASES)
def test_ours(case: str) -> None:
    for metric, value in CASES[case].ours().items():
        np.testing.assert_allclose(value, OURS[case][metric], atol=1e-6, err_msg=metric)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DIFFERENT)
def test_peer(name: str, case: str) -> None:
    peer = METRICS[name].need()
    ranked = CASES[case]
    expected = DIFFERENT[name].get(case, {})
    if isinstance(expected, type):
        with pytest.raises(expected):
            peer.run(ranked.ids, ranked.scores)
        return
    for metric, value in peer.run(ranked.ids, ranked.scores).items():
        wanted = expected.get(metric, OURS[case][metric])
        np.testing.assert_allclose(value, wanted, atol=1e-6, err_msg=metric)


def test_rectools_divides_by_the_full_ideal() -> None:
    """By default its NDCG of a target at rank 1 is 0.22: 1 divided by the sum of ten discounts."""
    ranked: Ranked = CASES["target 0, others below"]
    answers = METRICS["RecTools"].need().run(ranked.ids, ranked.scores)
    np.testing.assert_allclose(answers["ndcg@10"], 1 / IDEAL_DCG)
    np.testing.assert_allclose(answers["mrr@10"], 1)


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_model(name: str) -> None:
    """Ours scores as chance. Peers that order ties score what their order happens to give."""
    peer = METRICS[name].need()
    ranked = of_scores([1.0] * 20)
    chance = np.mean([(rank <= 10) / math.log2(rank + 1) for rank in range(1, 21)])
    np.testing.assert_allclose(ranked.ours()["ndcg@10"], chance, atol=1e-6)
    theirs = peer.run(ranked.ids, ranked.scores)
    if name in ("torchmetrics", "scikit-learn"):
        np.testing.assert_allclose(theirs["ndcg@10"], chance, atol=1e-6)
    else:
        possible = [0, *(1 / math.log2(rank + 1) for rank in range(1, 11))]
        scale = IDEAL_DCG if name == "RecTools" else 1
        assert np.isclose(theirs["ndcg@10"] * scale, possible, atol=1e-6).any()
    if "hit@10" in theirs:
        assert theirs["hit@10"] in (0, 1)  # never the 0.5 of chance


def test_pytrec_eval_orders_ties_by_name() -> None:
    """The later name wins, and scores that are equal in float32 tie too."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    evaluator = pytrec_eval.RelevanceEvaluator({"user": {"b": 1}}, {"recip_rank"})
    for other, value in (("a", 1.0), ("c", 0.5)):
        for score in (1.0, 1.0 + 1e-9):
            assert evaluator.evaluate({"user": {"b": score, other: 1.0}}) == {
                "user": {"recip_rank": value}
            }
