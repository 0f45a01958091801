"""Evaluation, checked against counts by hand and on real data."""

import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.evaluation import history_lengths, target_popularity
from tests.errors import raises
from tests.evaluation.cases import NUM_ITEMS, PROTOCOLS, make_case


def test_counts_and_means_match_the_definition():
    query, table, targets, options = make_case()
    result = rk.evaluate(query, table, targets, ks=(5, 1), num_bootstrap=10, **options)
    assert result.metrics == (
        "ndcg@1",
        "ndcg@5",
        "hit@1",
        "hit@5",
        "mrr@1",
        "mrr@5",
        "mrr",
        "auc",
        "logrank",
        "rank",
    )
    assert tuple(result.overall.protocols) == PROTOCOLS
    scores = (query.double() @ table.T.double()).numpy()
    for user, (target, history) in enumerate(zip(targets, options["exclude"], strict=True)):
        everything = set(range(1, NUM_ITEMS + 1)) - set(history) - {target}
        for protocol, others in {
            "sampled": options["negatives"][user].tolist(),
            "whole catalog": sorted(everything),
        }.items():
            above = int((scores[user, others] > scores[user, target]).sum())
            counts = [int(count[user]) for count in result.counts[protocol]]
            assert counts == [above, 0, 1 + len(others)]
    for protocol in ("sampled", "whole catalog"):
        want = rk.metrics_from_counts(result.counts[protocol], result.metrics)
        torch.testing.assert_close(result.per_user[protocol], want)
    sizes = result.counts["whole catalog"].total
    assert result.settings.items == (sizes.min(), sizes.max())
    assert result.settings.negatives == (9, 9)
    for method in ("unbiased", "bias-variance"):
        want = rk.corrected_metrics(result.counts["sampled"], result.metrics, sizes, method)
        torch.testing.assert_close(result.per_user[f"corrected ({method})"], want)
    for protocol, values in result.per_user.items():
        means = [estimate.mean for estimate in result.overall.protocols[protocol].values()]
        torch.testing.assert_close(torch.tensor(means), values.mean(0), rtol=1e-5, atol=1e-6)


def test_items_are_counted_as_in_the_ranking():
    """Histories may hold an item twice, the target, padding, and rows that are not items."""
    query, table, targets, options = make_case(users=3)
    valid = options["valid"].clone()
    others = [item for item in range(1, 61) if item not in targets][:4]
    valid[others[0]] = False
    exclude = [[others[1], others[1], others[0]], [targets[1], -1, others[2]], []]
    result = rk.evaluate(query, table, targets, exclude=exclude, valid=valid, num_bootstrap=2)
    assert result.counts["whole catalog"].total.tolist() == [58, 58, 59]
    assert result.settings.items == (58, 59)


def test_the_whole_catalog_can_be_left_out():
    query, table, targets, options = make_case()
    whole = rk.evaluate(query, table, targets, num_bootstrap=10, **options)
    part = rk.evaluate(
        query,
        table,
        targets,
        whole_catalog=False,
        corrections=("unbiased",),
        num_bootstrap=10,
        **options,
    )
    assert tuple(part.overall.protocols) == ("sampled", "corrected (unbiased)")
    for protocol, estimates in part.overall.protocols.items():
        assert estimates == whole.overall.protocols[protocol]
    options["negatives"] = None
    alone = rk.evaluate(query, table, targets, num_bootstrap=10, **options)
    assert tuple(alone.overall.protocols) == ("whole catalog",)
    assert alone.settings.negatives is None


def test_negatives_may_differ_in_number():
    query, table, targets, options = make_case(users=3)
    drawn = options.pop("negatives")
    rows = [drawn[0, :3].tolist(), drawn[1].tolist(), drawn[2, :1].tolist()]
    for negatives in (rows, rk.RaggedIds.from_lists(rows)):
        result = rk.evaluate(query, table, targets, negatives=negatives, num_bootstrap=2, **options)
        assert result.counts["sampled"].total.tolist() == [4, 10, 2]
        assert result.settings.negatives == (1, 9)


def test_a_constant_model_scores_as_chance():
    _, table, targets, options = make_case()
    result = rk.evaluate(torch.zeros(40, 8), table, targets, num_bootstrap=2, **options)
    sizes = result.counts["whole catalog"].total.double()
    estimates = {name: result.overall.protocols[name] for name in PROTOCOLS}
    for name in PROTOCOLS[1:]:
        assert estimates[name]["auc"].mean == pytest.approx(0.5, abs=1e-6)
        assert estimates[name]["rank"].mean == pytest.approx(float((sizes + 1).mean() / 2))
    assert estimates["sampled"]["hit@5"].mean == pytest.approx(0.5)
    assert estimates["whole catalog"]["hit@5"].mean == pytest.approx(float((5 / sizes).mean()))


def test_the_same_seed_gives_the_same_intervals():
    query, table, targets, options = make_case()
    first, again, other = (
        rk.evaluate(query, table, targets, num_bootstrap=50, seed=seed, **options).to_dict()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["overall"] != other["overall"]


def test_a_group_is_an_evaluation_of_its_users():
    query, table, targets, options = make_case()
    lengths = history_lengths(options["exclude"])
    assert lengths.tolist() == [len(history) for history in options["exclude"]]
    groups = {"length": lengths, "color": ["red", "blue"] * 20}
    result = rk.evaluate(
        query, table, targets, groups=groups, num_bins=3, num_bootstrap=20, **options
    )
    assert list(result.groups["color"]) == ["blue", "red"]
    assert len(result.groups["length"]) == 3
    assert sum(group.users for group in result.groups["length"].values()) == 40
    blue = slice(1, None, 2)
    want = rk.evaluate(
        query[blue],
        table,
        targets[blue],
        num_bootstrap=20,
        negatives=options["negatives"][blue],
        exclude=options["exclude"][blue],
        valid=options["valid"],
    )
    got = result.groups["color"]["blue"]
    assert got.users == 20
    for protocol, estimates in want.overall.protocols.items():
        for metric, estimate in estimates.items():
            assert got.protocols[protocol][metric] == pytest.approx(estimate, rel=1e-6)


def with_row(rows, row, value):
    return [value if i == row else list(old) for i, old in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda o: {"ks": ()}, ("ks", "()")),
        (lambda o: {"ks": (1, 1)}, ("ks", "(1, 1)")),
        (lambda o: {"ks": (0,)}, ("ks", "from 1 to", 0)),
        (lambda o: {"confidence": 95}, ("confidence", "0", "1", 95)),
        (lambda o: {"confidence": 1}, ("confidence", "less than 1", 1)),
        (lambda o: {"num_bootstrap": 1}, ("num_bootstrap", "at least 2", 1)),
        (lambda o: {"ties": "lucky"}, ("tie", "lucky")),
        (lambda o: {"gamma": 2}, ("gamma", "at most 1", 2)),
        (lambda o: {"corrections": ("magic",)}, ("correction", "magic", "unbiased")),
        (lambda o: {"whole_catalog": False, "negatives": None}, ("whole_catalog", "negatives")),
        (lambda o: {"valid": torch.ones(3, dtype=torch.bool)}, ("valid", "bool", "[61")),
        (lambda o: {"groups": {"age": [1, 2]}}, ("groups['age']", 40, "(2,)")),
        (lambda o: {"groups": {"age": [float("nan")] * 40}}, ("groups['age']", "row 0", "nan")),
        (lambda o: {"negatives": with_row(o["negatives"], 3, [])}, ("negatives", "row 3")),
        (
            lambda o: {"negatives": with_row(o["negatives"], 3, [5, 6, 5])},
            ("negatives", "item 5", "row 3", "repeated"),
        ),
        (
            lambda o: {"negatives": with_row(o["negatives"], 1, o["exclude"][1][:1])},
            ("negatives", "row 1", "exclude"),
        ),
    ],
)
def test_invalid_arguments_are_refused(change, named):
    query, table, targets, options = make_case()
    assert options["exclude"][1]
    with raises(ValueError, *named):
        rk.evaluate(query, table, targets, **{**options, **change(options)})


def test_invalid_ids_and_embeddings_are_refused():
    query, table, targets, options = make_case()
    with raises(ValueError, "negatives", "row 0", "target"):
        rk.evaluate(query, table, targets, negatives=[[target] for target in targets])
    with raises(IndexError, "targets", 0, "item"):
        rk.evaluate(query, table, [0] * 40, **options)
    with raises(IndexError, "negatives", 0, "item"):
        rk.evaluate(query, table, targets, **{**options, "negatives": [[0]] * 40})
    with raises(IndexError, "exclude", 99, "index"):
        rk.evaluate(query, table, targets, exclude=[[99]] * 40)
    with raises(ValueError, "query", "no rows"):
        rk.evaluate(query[:0], table, [])
    query[7] = torch.nan
    with raises(ValueError, "query", "row 7", "NaN"):
        rk.evaluate(query, table, targets, **options)
    for name, value in {"ks": "10", "confidence": "0.9", "corrections": "unbiased"}.items():
        with raises(TypeError, name, repr(value)):
            rk.evaluate(query, table, targets, **{name: value})


@pytest.fixture(scope="module")
def beauty_result(beauty_dir):
    """Popularity as the model, of real users among real items: it needs no encoder."""
    items = rk.load_item_metadata("beauty", data_dir=beauty_dir)
    test = rk.RecommendationDataset(
        "beauty",
        items,
        rk.PromptGenerator(items),
        "test",
        num_negs=99,
        num_items=max(items) + 1,
        data_dir=beauty_dir,
    )
    rows = range(0, len(test), 8)
    valid = torch.zeros(test.num_items, dtype=torch.bool)
    valid[list(items)] = True
    return rk.evaluate(
        torch.ones(len(rows), 1),
        torch.from_numpy(test.item_counts).float()[:, None],
        test.targets[rows],
        negatives=test.negatives[rows],
        exclude=[test.history(row) for row in rows],
        valid=valid,
        groups={"target popularity": target_popularity(test.targets[rows], test.item_counts)},
        num_bootstrap=200,
    )


def test_corrections_are_closer_to_the_truth_on_real_data(beauty_result):
    means = {
        name: {metric: estimate.mean for metric, estimate in estimates.items()}
        for name, estimates in beauty_result.overall.protocols.items()
    }
    truth = means["whole catalog"]
    for metric in ("ndcg@5", "ndcg@10", "ndcg@20", "hit@10", "hit@20", "mrr", "logrank"):
        error = {name: abs(means[name][metric] - truth[metric]) for name in means}
        assert error["corrected (unbiased)"] < error["sampled"] / 1.5, metric
        assert error["corrected (bias-variance)"] < error["corrected (unbiased)"] / 5, metric
    rank = means["corrected (unbiased)"]["rank"]
    low, high = beauty_result.overall.protocols["corrected (unbiased)"]["rank"][1:]
    assert rank == pytest.approx(truth["rank"], rel=0.02)
    assert low < truth["rank"] < high
    popular = beauty_result.groups["target popularity"]
    ndcg = [group.protocols["whole catalog"]["ndcg@100"].mean for group in popular.values()]
    assert len(ndcg) == 5
    assert max(ndcg[:-1]) < ndcg[-1]  # a popularity model ranks popular targets first
