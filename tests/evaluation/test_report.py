"""An evaluation as a table, as JSON and as a figure."""

import json

import pytest

import rl4rec_kernels as rk
from rl4rec_kernels.evaluation import history_lengths
from tests.errors import raises
from tests.evaluation.cases import PROTOCOLS, make_case


def test_table_json_and_figure(tmp_path):
    from rich.console import Console

    query, table, targets, options = make_case()
    groups = {
        "length": history_lengths(options["exclude"]),
        "target popularity": [10_000 * (i % 5) for i in range(40)],
    }
    result = rk.evaluate(
        query, table, targets, groups=groups, num_bins=3, num_bootstrap=20, **options
    )
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
    narrow = Console(width=80, record=True, file=(tmp_path / "narrow").open("w"))
    narrow.print(result.table("target popularity"))
    narrow.print(result.table(metrics=("hit@5",)))
    text = narrow.export_text()
    labels = result.groups["target popularity"]
    for word in ("popularity", *labels, "catalog", "(unbiased)", "variance)", "users"):
        assert word in text
    means = {name: e["hit@5"].mean for name, e in result.overall.protocols.items()}
    mean, truth = means["corrected (unbiased)"], means["whole catalog"]
    assert f"{mean:.4f} {mean - truth:+.4f}" in text
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
        evaluation.plot(tmp_path / "figures" / f"{name}.png", "a title")
        figure = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert figure[:4] == b"\x89PNG"
        assert len(figure) > 10_000
    with raises(ValueError, "grouping", "'age'", "'length'"):
        result.table("age")
    with raises(ValueError, "'ndcg@7'", "ndcg@10"):
        result.table(metrics=("ndcg@7",))
    assert "40 users, ndcg@10: sampled 0." in repr(result)
