"""Several targets per user, lists of items, accumulated means, and evaluations read from files."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

import rl4rec_kernels as rk
from rl4rec_kernels.evaluation import Evaluator, history_lengths
from rl4rec_kernels.metrics import parse_metrics
from rl4rec_kernels.ops import reference
from tests.errors import raises
from tests.evaluation.cases import NUM_ITEMS, make_case


def several_case():
    """Each user's target and up to two more: items that are not among the negatives."""
    query, table, targets, options = make_case(users=12)
    rows = []
    for user, target in enumerate(targets):
        free = set(range(1, NUM_ITEMS + 1)) - {target, *options["negatives"][user].tolist()}
        rows.append([target, *sorted(free)[: user % 3]])  # some of them are in the history
    return query, table, rows, options


def test_metrics_are_those_of_one_list_per_user():
    query, table, rows, options = several_case()
    result = rk.evaluate(query, table, rows, ks=(5, 20), num_bootstrap=4, **options)
    assert tuple(result.overall.protocols) == ("sampled", "whole catalog")  # no corrections
    scores = query.double() @ table.double().T
    for user, own in enumerate(rows):
        history = set(options["exclude"][user])
        for protocol, others in {
            "sampled": options["negatives"][user].tolist(),
            "whole catalog": [i for i in range(1, NUM_ITEMS + 1) if i not in history],
        }.items():
            listed = sorted({*own, *others}, key=lambda i: -scores[user, i])
            ranks = sorted(listed.index(item) + 1 for item in own)
            for column, metric in enumerate(parse_metrics(result.metrics)):
                want = reference.metric_at_ranks(metric, ranks, len(listed))
                got = float(result.per_user[protocol][user, column])
                assert got == pytest.approx(want, rel=1e-5, abs=1e-6), result.metrics[column]
    assert {"recall@5", "precision@20", "map@5"} < set(result.metrics)
    with raises(ValueError, "corrections", "unbiased"):
        rk.evaluate(query, table, rows, corrections=("unbiased",), **options)
    with raises(ValueError, "negatives", "row 1", "target"):
        rows[1].append(int(options["negatives"][1, 0]))
        rk.evaluate(query, table, rows, **options)


def test_lists_of_items():
    query, table, targets, options = make_case(users=7)
    exclude, valid = options["exclude"], options["valid"]
    counts = np.random.default_rng(0).integers(0, 9, NUM_ITEMS + 1)
    options = {"exclude": exclude, "valid": valid, "ks": (2, 5), "num_bootstrap": 2}
    got = rk.evaluate(
        query, table, targets, beyond_accuracy=True, item_counts=counts, **options
    ).beyond_accuracy
    _, ids = rk.topk_catalog(query, table, 5, exclude, valid=valid)
    known = sorted((i for i in range(NUM_ITEMS + 1) if counts[i]), key=lambda i: (counts[i], i))
    tail, units = set(known[: len(known) // 10]), torch.nn.functional.normalize(table, dim=1)
    for k in (2, 5):
        lists = ids[:, :k].tolist()
        flat = list(itertools.chain.from_iterable(lists))
        times = sorted(flat.count(i) for i in set(flat))
        every = [0] * (NUM_ITEMS - len(times)) + times
        gini = sum((2 * i - NUM_ITEMS - 1) * c for i, c in enumerate(every, 1))
        pairs = [units[a] @ units[b] for row in lists for a, b in itertools.combinations(row, 2)]
        want = {
            "itemcoverage": len(set(flat)) / NUM_ITEMS,
            "giniindex": gini / NUM_ITEMS / len(flat),
            "shannonentropy": -sum(c / len(flat) * math.log(c / len(flat)) for c in times)
            / len(times),
            "averagepopularity": sum(counts[i] for i in flat) / len(flat),
            "tailpercentage": sum(i in tail for i in flat) / len(flat),
            "intralistsimilarity": float(sum(pairs)) / len(pairs),
        }
        for name, value in want.items():
            assert got[f"{name}@{k}"] == pytest.approx(value, rel=1e-5), name
    assert not rk.evaluate(query, table, targets, **options).beyond_accuracy
    with raises(ValueError, "item_counts", NUM_ITEMS + 1):
        rk.evaluate(query, table, targets, beyond_accuracy=True, item_counts=[1], **options)


def test_an_evaluation_is_read_from_its_file(tmp_path):
    query, table, targets, options = make_case()
    groups = {"length": history_lengths(options["exclude"])}
    about = {"data set": "toys", "split": "test"}
    result = rk.evaluate(
        query, table, targets, groups=groups, num_bootstrap=5, about=about,
        beyond_accuracy=True, **options,
    )  # fmt: skip
    result.save(tmp_path / "result.json")
    again = rk.Evaluation.load(tmp_path / "result.json")
    assert again.to_dict() == result.to_dict()
    assert again.settings == result.settings
    assert (again.settings.about, again.settings.version) == (about, rk.__version__)
    frame = again.to_pandas()
    row = frame[(frame.protocol == "sampled") & (frame.metric == "mrr") & (frame.grouping == "")]
    assert row[["mean", "low", "high"]].values.tolist() == [
        list(result.overall.protocols["sampled"]["mrr"])
    ]
    assert len(frame) == (1 + len(result.groups["length"])) * 4 * len(result.metrics)
    assert "data set toys" in again.table().caption
    for text in ("[]", "{", '{"settings": {"ks": [1]}}'):
        (tmp_path / "bad.json").write_text(text)
        with raises(ValueError, "bad.json"):
            rk.Evaluation.load(tmp_path / "bad.json")


def test_means_are_accumulated(tmp_path):
    query, table, rows, options = several_case()
    names = ("ndcg@5", "Recall@5", "mrr")
    for negatives in (None, options["negatives"]):
        evaluator = Evaluator(table, names, valid=options["valid"])
        with raises(ValueError, "update"):
            evaluator.compute()
        for part in (slice(0, 5), slice(5, 12)):
            own = None if negatives is None else negatives[part]
            exclude = options["exclude"][part]
            evaluator.update(query[part], rows[part], negatives=own, exclude=exclude)
        with raises(IndexError, "targets", 99):
            evaluator.update(query[:1], [99])
        whole = rk.evaluate(query, table, rows, ks=(5,), num_bootstrap=2, **options)
        protocol = "whole catalog" if negatives is None else "sampled"
        want = {n: whole.overall.protocols[protocol][n.lower()].mean for n in names}
        assert evaluator.compute() == pytest.approx(want)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert evaluator.compute() == pytest.approx(want)
    finally:
        dist.destroy_process_group()
    evaluator.reset()
    with raises(ValueError, "update"):
        evaluator.compute()
