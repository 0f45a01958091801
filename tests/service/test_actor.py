"""The Ray actor itself, called without the client."""

import pytest

from rl4rec_kernels import RecRewardFrunction, RetrievalService
from tests.errors import raises
from tests.service.cases import is_same
from tests.test_guide import REWARD


def test_the_actor_can_be_called_directly(ray, client, local):
    actor = ray.get_actor("OnRay", namespace="tests")
    arguments = {"dataset_name": "toys", "targets": [5, 6], "neg_items": [[1, 2, 3], [9]]}
    scores = ray.get(actor.calculate_reward.remote(["soap", "perfume"], **arguments))
    assert is_same(scores, local.calculate_reward(["soap", "perfume"], **arguments))
    counts = ray.get(actor.rank.remote(["soap", "perfume"], **arguments))
    assert is_same(counts, local.rank(["soap", "perfume"], **arguments))


def test_the_guide_runs(client, capsys):
    """With other names than the guide's, which are the defaults of other tests."""
    snippet = REWARD.replace('"RetrievalService"', '"OnRay"').replace('"rl4rec"', '"tests"')
    names: dict = {"RecRewardFrunction": RecRewardFrunction}
    exec(snippet, names)
    assert 0 < names["rewards"][0] <= 1
    assert "Reward: [" in capsys.readouterr().out


def test_invalid_arguments_reach_the_caller(ray, client):
    actor = ray.get_actor("OnRay", namespace="tests")
    errors = client.describe()[0]["load"]["errors"]
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(actor.rank.remote(["soap"], "toys", [1, 2]))
    with raises(ValueError, "targets", 1, "(2,)"):
        raise caught.value.cause
    assert client.describe()[0]["load"]["errors"] == errors + 1


def test_it_must_be_started_by_ray():
    with raises(TypeError, "RetrievalService.options", "LocalRetrievalService"):
        RetrievalService("beauty")
