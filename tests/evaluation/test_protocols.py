"""Evaluation, against counts by hand, the definition of the bootstrap, and real data."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import rl4rec_kernels as rk
from rl4rec_kernels.cli.evaluation_job import evaluate_dataset, read_texts
from rl4rec_kernels.evaluation import history_lengths, target_popularity
from rl4rec_kernels.evaluation.bootstrap import bootstrap_intervals
from rl4rec_kernels.evaluation.groups import group_rows

PROTOCOLS = ("sampled", "whole catalog", "corrected (unbiased)", "corrected (bias-variance)")
NUM_ITEMS = 60


def a_case(users=40, negatives=9, seed=0):
    """Queries, a table whose row 0 is padding, targets, histories and negatives."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(NUM_ITEMS + 1, 8, generator=generator)
    query = torch.randn(users, 8, generator=generator)
    rng = np.random.default_rng(seed)
    rows = [rng.choice(NUM_ITEMS, 1 + rng.integers(0, 12), replace=False) + 1 for _ in range(users)]
    targets, histories = [int(row[0]) for row in rows], [row[1:].tolist() for row in rows]
    valid = torch.ones(NUM_ITEMS + 1, dtype=torch.bool)
    valid[0] = False
    seen = [row.tolist() for row in rows]
    drawn = rk.sample_negatives(NUM_ITEMS + 1, seen, negatives, seed=seed)
    return query, table, targets, {"negatives": drawn, "exclude": histories, "valid": valid}


def test_counts_and_means_are_those_of_the_definition():
    query, table, targets, options = a_case()
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


def test_items_are_counted_as_the_ranking_counts_them():
    """Histories may hold an item twice, the target, padding, and rows that are no items."""
    query, table, targets, options = a_case(users=3)
    valid = options["valid"].clone()
    others = [item for item in range(1, 61) if item not in targets][:4]
    valid[others[0]] = False
    exclude = [[others[1], others[1], others[0]], [targets[1], -1, others[2]], []]
    result = rk.evaluate(query, table, targets, exclude=exclude, valid=valid, num_bootstrap=2)
    assert result.counts["whole catalog"].total.tolist() == [58, 58, 59]
    assert result.settings.items == (58, 59)


def test_the_whole_catalog_can_be_left_out():
    query, table, targets, options = a_case()
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
    query, table, targets, options = a_case(users=3)
    drawn = options.pop("negatives")
    rows = [drawn[0, :3].tolist(), drawn[1].tolist(), drawn[2, :1].tolist()]
    for negatives in (rows, rk.RaggedIds.from_lists(rows)):
        result = rk.evaluate(query, table, targets, negatives=negatives, num_bootstrap=2, **options)
        assert result.counts["sampled"].total.tolist() == [4, 10, 2]
        assert result.settings.negatives == (1, 9)


def test_a_constant_model_earns_what_chance_earns():
    _, table, targets, options = a_case()
    result = rk.evaluate(torch.zeros(40, 8), table, targets, num_bootstrap=2, **options)
    sizes = result.counts["whole catalog"].total.double()
    estimates = {name: result.overall.protocols[name] for name in PROTOCOLS}
    for name in PROTOCOLS[1:]:
        assert estimates[name]["auc"].mean == pytest.approx(0.5, abs=1e-6)
        assert estimates[name]["rank"].mean == pytest.approx(float((sizes + 1).mean() / 2))
    assert estimates["sampled"]["hit@5"].mean == pytest.approx(0.5)
    assert estimates["whole catalog"]["hit@5"].mean == pytest.approx(float((5 / sizes).mean()))


def test_bootstrap_is_that_of_resampled_users():
    values = torch.rand(30, 3, generator=torch.Generator().manual_seed(1)) ** 3
    got = bootstrap_intervals({"a": values, "b": values * 2}, 400, 0.9, seed=5)
    means = []
    for i in range(400):
        drawn = np.random.default_rng((5, i)).integers(30, size=30)
        means.append(values.double()[drawn].mean(0).numpy())
    want = np.quantile(np.stack(means), [0.05, 0.95], axis=0)
    np.testing.assert_allclose(got["a"].numpy(), want, rtol=1e-6)
    torch.testing.assert_close(got["b"], 2 * got["a"], rtol=1e-6, atol=0)


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say():
    truth, generator = 0.3, torch.Generator().manual_seed(2)
    samples = (torch.rand(300, 200, generator=generator) < truth).float()
    ends = [bootstrap_intervals({"a": s[:, None]}, 200, 0.9, seed=1)["a"] for s in samples]
    inside = [bool(low <= truth <= high) for low, high in (end[:, 0] for end in ends)]
    assert 0.84 <= np.mean(inside) <= 0.95


def test_blocks_of_replicates_do_not_change_intervals(monkeypatch):
    values = {"a": torch.rand(50, 2, generator=torch.Generator().manual_seed(3))}
    whole = bootstrap_intervals(values, 33, 0.95, seed=0)
    monkeypatch.setattr("rl4rec_kernels.evaluation.bootstrap._BLOCK_BYTES", 50 * 8 * 4)
    parts = bootstrap_intervals(values, 33, 0.95, seed=0)
    torch.testing.assert_close(parts["a"], whole["a"], rtol=1e-12, atol=0)


def test_same_seed_same_intervals():
    query, table, targets, options = a_case()
    first, again, other = (
        rk.evaluate(query, table, targets, num_bootstrap=50, seed=seed, **options).to_dict()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["overall"] != other["overall"]


def test_groups_are_evaluations_of_their_users():
    query, table, targets, options = a_case()
    lengths = history_lengths(options["exclude"])
    assert lengths.tolist() == [len(history) for history in options["exclude"]]
    groups = {"length": lengths, "colour": ["red", "blue"] * 20}
    result = rk.evaluate(
        query, table, targets, groups=groups, num_bins=3, num_bootstrap=20, **options
    )
    assert list(result.groups["colour"]) == ["blue", "red"]
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
    got = result.groups["colour"]["blue"]
    assert got.users == 20
    for protocol, estimates in want.overall.protocols.items():
        for metric, estimate in estimates.items():
            assert got.protocols[protocol][metric] == pytest.approx(estimate, rel=1e-6)


def test_numbers_are_split_into_ranges_of_equally_many_users():
    values = np.random.default_rng(0).permutation(100) / 4
    rows = group_rows({"a": values}, 100, 4)["a"]
    assert [len(members) for members in rows.values()] == [25, 25, 25, 25]
    assert next(iter(rows)) == "0–6"
    for label, members in rows.items():
        low, high = map(float, label.split("–"))
        assert values[members].min() == low
        assert values[members].max() == high
    skewed = group_rows({"a": np.array([4] * 90 + list(range(5, 15)))}, 100, 4)["a"]
    assert list(skewed) == ["4", "5–14"]  # equal numbers stay together
    few = group_rows({"a": np.array([3, 1, 3])}, 3, 4)["a"]
    assert {label: members.tolist() for label, members in few.items()} == {"1": [1], "3": [0, 2]}


def test_target_popularity():
    assert target_popularity([2, 0], [5, 6, 7]).tolist() == [7, 5]
    with pytest.raises(IndexError, match="targets: item 3 "):
        target_popularity([3], [5, 6, 7])


def test_table_json_and_picture(tmp_path):
    from rich.console import Console

    query, table, targets, options = a_case()
    groups = {"length": history_lengths(options["exclude"])}
    result = rk.evaluate(query, table, targets, groups=groups, num_bootstrap=20, **options)
    console = Console(width=150, record=True, file=(tmp_path / "log").open("w"))
    console.print(result.table(title="a title"))
    console.print(result.table("length", metrics=("mrr",)))
    text = console.export_text()
    mean, low, high = result.overall.protocols["whole catalog"]["ndcg@20"]
    for words in (
        "a title",
        *PROTOCOLS[:2],
        "(unbiased)",
        "variance)",
        f"{mean:.4f} ±{(high - low) / 2:.4f}",
        "40 users",
        "mrr",
    ):
        assert words in text
    result.save(tmp_path / "new" / "result.json")
    saved = json.loads((tmp_path / "new" / "result.json").read_text())
    assert saved == json.loads(json.dumps(result.to_dict()))
    assert saved["overall"]["protocols"]["sampled"]["hit@5"]["mean"] == pytest.approx(
        float(result.per_user["sampled"][:, result.metrics.index("hit@5")].double().mean())
    )
    assert [group["label"] for group in saved["groups"]["length"]] == list(result.groups["length"])
    for name, evaluation in {
        "all": result,
        "plain": rk.evaluate(query, table, targets, ks=(3,), num_bootstrap=2),
    }.items():
        evaluation.plot(tmp_path / "pictures" / f"{name}.png", "a title")
        picture = (tmp_path / "pictures" / f"{name}.png").read_bytes()
        assert picture[:4] == b"\x89PNG"
        assert len(picture) > 10_000
    with pytest.raises(ValueError, match="no grouping 'age'; known are: 'length'"):
        result.table("age")
    with pytest.raises(ValueError, match="'ndcg@7' was not computed"):
        result.table(metrics=("ndcg@7",))
    assert "40 users, ndcg@10: sampled 0." in repr(result)


def with_row(rows, row, value):
    return [value if i == row else list(old) for i, old in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: {"ks": ()}, "ks is empty"),
        (lambda o: {"ks": (1, 1)}, "a cut-off twice"),
        (lambda o: {"ks": (0,)}, "must be from 1 to"),
        (lambda o: {"confidence": 95}, "confidence must be above 0 and below 1"),
        (lambda o: {"num_bootstrap": 1}, "num_bootstrap must be at least 2"),
        (lambda o: {"ties": "lucky"}, "unknown tie rule"),
        (lambda o: {"gamma": 2}, "gamma must be from"),
        (lambda o: {"corrections": ("magic",)}, "unknown correction 'magic'"),
        (lambda o: {"whole_catalog": False, "negatives": None}, "needs negatives"),
        (lambda o: {"valid": torch.ones(3, dtype=torch.bool)}, r"valid must be a bool tensor \[61"),
        (lambda o: {"groups": {"age": [1, 2]}}, r"groups\['age'\] must have one label"),
        (lambda o: {"groups": {"age": [float("nan")] * 40}}, "row 0 has nan"),
        (lambda o: {"negatives": with_row(o["negatives"], 3, [])}, "row 3 has none"),
        (lambda o: {"negatives": with_row(o["negatives"], 3, [5, 6, 5])}, "item 5 of row 3 stands"),
        (
            lambda o: {"negatives": with_row(o["negatives"], 1, o["exclude"][1][:1])},
            "of row 1 is also in exclude",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, words):
    query, table, targets, options = a_case()
    assert options["exclude"][1]
    with pytest.raises(ValueError, match=words):
        rk.evaluate(query, table, targets, **{**options, **change(options)})


def test_bad_ids_and_embeddings_are_refused():
    query, table, targets, options = a_case()
    with pytest.raises(ValueError, match="is the row's target"):
        rk.evaluate(query, table, targets, negatives=[[target] for target in targets])
    with pytest.raises(IndexError, match="targets: 0 is not an item"):
        rk.evaluate(query, table, [0] * 40, **options)
    with pytest.raises(IndexError, match="negatives: 0 is not an item"):
        rk.evaluate(query, table, targets, **{**options, "negatives": [[0]] * 40})
    with pytest.raises(IndexError, match="exclude: item 99 is not in the index"):
        rk.evaluate(query, table, targets, exclude=[[99]] * 40)
    with pytest.raises(ValueError, match="nobody to evaluate"):
        rk.evaluate(query[:0], table, [])
    query[7] = torch.nan
    with pytest.raises(ValueError, match="query: row 7 holds NaN"):
        rk.evaluate(query, table, targets, **options)
    with pytest.raises(TypeError, match="ks must be a sequence"):
        rk.evaluate(query, table, targets, ks="10")


def test_read_texts():
    lines = ['{"user_id": 3, "text": "a"}', "", '{"user_id": 1, "text": ""}']
    assert read_texts(lines) == {3: "a", 1: ""}
    for line, words in {
        "{": "line 2 is not JSON",
        "[1]": "line 2 must be",
        '{"user_id": "3", "text": "a"}': "line 2 must be",
        '{"user_id": 3, "text": "b"}': "line 2: user 3 has a text already",
    }.items():
        with pytest.raises(ValueError, match=words):
            read_texts([lines[0], line])
    with pytest.raises(ValueError, match="there are no texts"):
        read_texts([])


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


def test_corrections_are_nearer_to_the_truth_on_real_data(beauty_result):
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
    assert max(ndcg[:-1]) < ndcg[-1]  # a popularity model serves popular targets


def test_texts_of_a_model_on_movielens(ml100k_dir, encoder, tmp_path, monkeypatch):
    """Texts that name the target beat the users' latest titles."""
    monkeypatch.setenv("RL4REC_CACHE", str(tmp_path))
    items = rk.load_item_metadata("ml-100k", data_dir=ml100k_dir)
    test = rk.RecommendationDataset(
        "ml-100k", items, rk.PromptGenerator(items), "test", data_dir=ml100k_dir
    )
    texts = {
        int(test.user_ids[row]): f"I think… <query>{items[test.targets[row]]['title']}</query>"
        for row in range(0, 60)
    }
    options = {"data_dir": ml100k_dir, "num_negs": 20, "ks": (1, 10), "num_bootstrap": 20}
    named = evaluate_dataset("ml-100k", encoder, texts=texts, **options)
    assert named.overall.users == 60
    assert list(named.groups) == ["history length", "target popularity"]
    latest = evaluate_dataset("ml-100k", encoder, num_users=60, group_by=(), **options)
    assert latest.overall.users == 60
    assert not latest.groups
    ndcg = [result.overall.protocols["whole catalog"]["ndcg@10"].mean for result in (named, latest)]
    assert ndcg[0] > 0.8 > 0.2 > ndcg[1]
    with pytest.raises(ValueError, match="user 99999 has a text but no sample"):
        evaluate_dataset("ml-100k", encoder, texts={99999: "a"}, **options)
    with pytest.raises(ValueError, match="unknown grouping 'age'"):
        evaluate_dataset("ml-100k", encoder, group_by=("age",), **options)


def test_importing_stays_light():
    heavy = ("matplotlib", "rich", "scipy", "typer", "sentence_transformers")
    code = (
        "import sys; import rl4rec_kernels; "
        f"assert not set({heavy}) & set(sys.modules), set({heavy}) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
