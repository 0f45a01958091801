"""The reward function, against a plain loop over rows."""

import asyncio
import logging
import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl4rec_kernels import (
    ItemIndex,
    LocalRetrievalService,
    RaggedIds,
    RecReward,
    RecRewardFrunction,
)
from rl4rec_kernels.rewards.completions import extract_query, strip_special_tokens
from rl4rec_kernels.rewards.reward import remove_repeats

TEXTS = ["red nail polish", "<think>soap?</think><query>dry hair</query>", "perfume"]
TARGETS, HISTORIES = [3, 17, 40], [[1, 2], [5], []]
NEGATIVES = [[5, 9, 11], [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12], [4]]


@pytest.fixture(scope="module")
def service(encoder) -> LocalRetrievalService:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(50, 384, generator=generator)
    table[21] = table[3]  # two items with one embedding
    return LocalRetrievalService({"toys": ItemIndex.from_embeddings(table)}, encoder)


def make(service, **options) -> RecReward:
    return RecReward(service=service, dataset_name="toys", **options)


def loop(service, metric, texts, targets, histories, neg_items=None, k=10) -> list[float]:
    """What projects do today, and what a tie is worth by hand: the mean over its places."""
    rewards = []
    everything = service.calculate_reward([extract_query(text) for text in texts], "toys")
    for b, target in enumerate(targets):
        if neg_items is None:
            items = [i for i in range(1, 50) if i not in histories[b] and i != target]
        else:
            items = neg_items[b]
        scores = [everything[b, item].item() for item in items]
        own = everything[b, target].item()
        above, tied = sum(s > own for s in scores), sum(s == own for s in scores)
        values = [metric(rank, k) for rank in range(1 + above, 2 + above + tied)]
        rewards.append(sum(values) / len(values))
    return rewards


def ndcg(rank, k):
    return (rank <= k) / math.log2(1 + rank)


def hit(rank, k):
    return float(rank <= k)


def mrr(rank, k):
    return (rank <= k) / rank


def mixed(rank, k):
    return 0.7 * ndcg(rank, k) + 0.3 * hit(rank, k)


@pytest.mark.parametrize("metric", [ndcg, hit, mrr, mixed], ids=lambda f: f.__name__)
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_rewards_equal_a_loop_over_rows(service, metric, k, negatives):
    reward = make(service, reward_type=metric.__name__, k=k)
    got = reward(TEXTS, TARGETS, HISTORIES, negatives)
    assert all(type(value) is float for value in got)
    assert got == pytest.approx(
        loop(service, metric, TEXTS, TARGETS, HISTORIES, negatives, k), abs=1e-6
    )


def test_ties_share_their_places(service):
    kwargs = {"generated_texts": ["x"], "targets": [3], "histories": [[]], "neg_items": [[21]]}
    assert make(service, reward_type="rank")(**kwargs) == [1.5]
    assert make(service, reward_type="rank", ties="pessimistic")(**kwargs) == [2.0]


def test_a_row_alone_earns_what_it_earns_in_a_batch(service):
    reward = make(service, reward_type="rank")
    for negatives in (NEGATIVES, None):
        batch = reward(TEXTS, TARGETS, HISTORIES, negatives)
        for b in range(3):
            own = negatives and [negatives[b]]
            assert reward([TEXTS[b]], [TARGETS[b]], [HISTORIES[b]], own) == [batch[b]]


def test_the_target_stays_though_it_is_in_the_history(service):
    reward = make(service, reward_type="rank")
    want = reward(["x"], [3], [[7]])
    assert reward(["x"], [3], [[7, 3]]) == want


def test_metric_names_and_ids_of_all_kinds(service):
    auc = make(service, reward_type="auc")
    want = auc(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    padded = torch.tensor([[*row, *[-1] * (11 - len(row))] for row in NEGATIVES])
    for form in (padded, padded.numpy(), RaggedIds.from_lists(NEGATIVES)):
        assert auc(TEXTS, torch.tensor(TARGETS), HISTORIES, form) == want
    assert auc(TEXTS, [np.int64(t) for t in TARGETS], None, NEGATIVES) == want
    fixed = make(service, reward_type="ndcg@2", k=10)(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    assert fixed == make(service, reward_type="ndcg", k=2)(TEXTS, TARGETS, HISTORIES, NEGATIVES)


def test_repeats_are_removed_and_reported(service, caplog):
    reward = make(service, reward_type="rank")
    want = reward(["x", "y"], [3, 4], [[], []], [[5, 6], [7]])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        got = reward(["x", "y"], [3, 4], [[], []], [[5, 6, 5, 3, 5], [4, 7, 4]])
        reward(["x", "y"], [3, 4], [[], []], [[5, 6, 5], [7]])
    assert got == want
    assert [record.getMessage() for record in caplog.records] == [
        "neg_items had 2 repeats and 3 targets among the negatives; they were removed"
    ]
    assert (reward.last_report.duplicates, reward.last_report.targets) == (1, 0)
    reward(["x"], [3], [[]])  # the report is of the last call, whatever that was
    assert (reward.last_report.duplicates, reward.last_report.targets) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 5))), min_size=1))
def test_remove_repeats_keeps_the_first_in_order(rows):
    targets = np.array([target for target, _ in rows])
    lists = [negatives for _, negatives in rows]
    kept, report = remove_repeats(RaggedIds.from_lists(lists), targets)
    want = [[i for i in dict.fromkeys(row) if i != t] for t, row in rows]
    assert kept.to_lists() == want
    assert report.targets == sum(row.count(t) for t, row in rows)
    assert report.duplicates + report.targets == sum(map(len, lists)) - sum(map(len, want))


def test_use_negatives_only(service):
    catalog = make(service, reward_type="rank")(TEXTS, TARGETS, HISTORIES)
    ignoring = make(service, reward_type="rank", use_negatives_only=False)
    assert ignoring(TEXTS, TARGETS, HISTORIES, NEGATIVES) == catalog
    # A dataset without negatives has empty lists: they must not make the target stand alone.
    assert make(service, reward_type="rank")(TEXTS, TARGETS, HISTORIES, [[], [], []]) == catalog
    strict = make(service, use_negatives_only=True)
    for nothing in (None, [[], [], []]):
        with pytest.raises(ValueError, match="use_negatives_only=True needs neg_items"):
            strict(TEXTS, TARGETS, HISTORIES, nothing)
    with pytest.raises(ValueError, match="row 1 has no negatives but its target"):
        strict(TEXTS, TARGETS, HISTORIES, [[1], [17], [2]])


def test_normalize_is_off_and_safe(service):
    plain = np.array(make(service, reward_type="mrr")(TEXTS, TARGETS, HISTORIES))
    got = make(service, reward_type="mrr", k=10**6, normalize=True)(TEXTS, TARGETS, HISTORIES)
    scores = np.array(make(service, reward_type="mrr", k=10**6)(TEXTS, TARGETS, HISTORIES))
    np.testing.assert_allclose(got, (scores - scores.mean()) / scores.std())
    assert make(service, normalize=True)(["x"], [3], [[]]) == [0.0]
    assert plain.min() >= 0


def test_normalize_in_groups(service):
    texts, targets = [*TEXTS[:1] * 2, "soap", "comb"], [3, 3, 17, 40]
    arguments = (texts, targets, [[]] * 4, [NEGATIVES[1]] * 4)
    plain = np.array(make(service, reward_type="auc")(*arguments))
    assert plain[2] != plain[3]
    got = make(service, reward_type="auc", normalize=True, group_size=2)(*arguments)
    # equal texts earn the same, whatever rounding makes of their spread
    higher = np.sign(plain[2] - plain[3])
    assert got == pytest.approx([0.0, 0.0, higher, -higher])
    grouped = make(service, normalize=True, group_size=2)
    with pytest.raises(ValueError, match="3 texts, which are no whole number of groups"):
        grouped(TEXTS, TARGETS, HISTORIES)


@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_softmax_of_the_target(service, negatives):
    everything = service.calculate_reward([extract_query(text) for text in TEXTS], "toys").double()
    shares = []
    for b, target in enumerate(TARGETS):
        items = negatives[b] if negatives else [i for i in range(1, 50) if i not in HISTORIES[b]]
        scores = everything[b, [target, *(i for i in items if i != target)]].numpy()
        weights = np.exp((scores - scores.max()) / 0.2)
        shares.append(weights[0] / weights.sum())
    arguments = (TEXTS, TARGETS, HISTORIES, negatives)
    softmax = make(service, reward_type="softmax", temperature=0.2)
    assert softmax(*arguments) == pytest.approx(shares, rel=1e-5)
    mix = make(service, reward_type="ndcg_softmax", temperature=0.2, softmax_weight=0.25, k=3)
    ndcgs = np.array(make(service, reward_type="ndcg", k=3)(*arguments))
    assert mix(*arguments) == pytest.approx(0.75 * ndcgs + 0.25 * np.array(shares), rel=1e-5)
    # The counts by which ndcg is computed come from the scores, and are those of `rank`.
    counts, want = mix.score(*arguments).counts, make(service).score(*arguments).counts
    assert all(torch.equal(a, b) for a, b in zip(counts, want, strict=True))


def test_softmax_keeps_the_target_that_is_in_the_history(service):
    softmax = make(service, reward_type="softmax")
    assert softmax(["x"], [3], [[7]]) == softmax(["x"], [3], [[7, 3]])
    with pytest.raises(IndexError, match="histories: item 99 is not in the index"):
        softmax(["x"], [3], [[99]])


def test_novelty_weighs_rare_targets_more(service):
    counts = np.zeros(50, dtype=np.int64)
    counts[[3, 17]] = 99, 3
    arguments = (TEXTS, TARGETS, HISTORIES, NEGATIVES)
    plain = np.array(make(service, reward_type="mrr", k=50)(*arguments))
    novel = make(service, reward_type="mrr", k=50, novelty=0.5, item_counts=counts)
    assert novel(*arguments) == pytest.approx(plain * [0.1, 0.5, 1.0])
    assert pickle.loads(pickle.dumps(RecReward(novelty=1, item_counts=counts))).novelty == 1
    short = make(service, novelty=0.5, item_counts=counts[:20])
    with pytest.raises(IndexError, match=r"targets: item 40 is not .* below 20"):
        short(*arguments)


@pytest.mark.parametrize("kind", ["mixed", "ndcg_softmax", "auc"])
@pytest.mark.parametrize("negatives", [NEGATIVES, None], ids=["negatives", "catalog"])
def test_coroutines_earn_the_same(service, kind, negatives):
    reward = make(service, reward_type=kind)

    class Blocking:  # a service without coroutines runs in a thread
        rank, calculate_reward = service.rank, service.calculate_reward

    blocking = make(Blocking(), reward_type=kind)

    async def many():
        calls = [
            (
                TEXTS[b : b + 1],
                TARGETS[b : b + 1],
                HISTORIES[b : b + 1],
                negatives and negatives[b : b + 1],
            )
            for b in range(3)
        ]
        return await asyncio.gather(*(r.score_async(*c) for r in (reward, blocking) for c in calls))

    got = [scored.rewards[0] for scored in asyncio.run(many())]
    assert got == pytest.approx(reward(TEXTS, TARGETS, HISTORIES, negatives) * 2, abs=1e-6)


def test_special_tokens_are_removed():
    text = "<s>a <b> | c<|im_end|>\n<|endoftext|></s><eos><end_of_turn>[PAD]<\uff5cend\uff5c>"
    assert strip_special_tokens(text) == "a <b> | c\n"
    assert strip_special_tokens("<query>a < b |> c</query>") == "<query>a < b |> c</query>"


def test_compute_metrics(service):
    got = make(service, k=5).compute_metrics(TEXTS, TARGETS, HISTORIES, NEGATIVES)
    for name, metric in (("ndcg@5", ndcg), ("hit@5", hit), ("mrr@5", mrr)):
        want = loop(service, metric, TEXTS, TARGETS, HISTORIES, NEGATIVES, k=5)
        assert got[name] == pytest.approx(np.mean(want), abs=1e-6)
    assert list(make(service).compute_metrics(TEXTS, TARGETS, HISTORIES, metrics=["auc"])) == [
        "auc"
    ]


def test_chat_completions(service):
    reward = make(service, reward_type="rank")
    chats = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": t}] for t in TEXTS]
    assert reward(chats, TARGETS, HISTORIES) == reward(TEXTS, TARGETS, HISTORIES)
    parts = [
        {"type": "text", "text": "dry "},
        {"type": "image"},
        {"type": "text", "text": "hair"},
    ]
    earlier = {"role": "assistant", "content": "let me look"}
    for content, text in ((parts, "dry hair"), (None, ""), ([], "")):
        chat = [earlier, {"role": "assistant", "content": content}]
        assert reward([chat], [3], [[]]) == reward([text], [3], [[]])
    with pytest.raises(TypeError, match=r"generated_texts\[0\]: a message's content must be"):
        reward([[{"role": "assistant", "content": 7}]], [3], [[]])
    with pytest.raises(TypeError, match=r"generated_texts\[0\]: a part of type text must have"):
        reward([[{"role": "assistant", "content": [{"type": "text"}]}]], [3], [[]])
    with pytest.raises(ValueError, match=r"generated_texts\[0\] has no message by the assistant"):
        reward([[{"role": "user", "content": "?"}]], [3], [[]])
    with pytest.raises(TypeError, match=r"generated_texts\[0\] must be a string or a list of chat"):
        reward([3], [3], [[]])


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("soap", "soap"),
        ("  soap\n", "soap"),
        ("<query>soap</query>", "soap"),
        ("a <QUERY>\n soap\n bar </Query> b", "soap\n bar"),
        ("I write <query> tags: <query>soap</query>.", "soap"),
        ("<query>a</query> no: <query>b</query>", "b"),
        ("<query>a</query> and <query>b", "a"),
        ("hm <query>soap", "soap"),
        ("<query>a <query>soap", "soap"),
        ("<query>a</query></query> <query", "a"),
        ("</query> soap <query> oil", "oil"),
        ("hm </query> soap", "hm </query> soap"),
        ("<query></query>", ""),
        ("", ""),
    ],
)
def test_extract_query(text, query):
    assert extract_query(text) == query


@given(st.text())
def test_extract_query_finds_what_was_wrapped(text):
    if "<query>" not in text.lower() and "</query>" not in text.lower():
        assert extract_query(f"thoughts <query>{text}</query> end") == text.strip()


@given(
    st.lists(st.sampled_from(["<query>", "</query>", "<QUERY>", "a", "\n", "İ", "<"]), max_size=9)
)
def test_extract_query_is_the_last_innermost_pair(pieces):
    text = "".join(pieces)
    pairs = re.findall(r"<query>((?:(?!</?query>).)*)</query>", text, re.DOTALL | re.IGNORECASE)
    if pairs:
        assert extract_query(text) == pairs[-1].strip()
    else:
        assert extract_query(text) == re.split("<query>", text, flags=re.I)[-1].strip()


def test_a_repeated_tag_takes_no_quadratic_time():
    """Takes a blink; minutes, if each tag looked for its end."""
    assert extract_query("<query>" * 50_000 + "soap") == "soap"


def test_found_by_name_in_every_process(service):
    service.register("reward tests", "tests")
    reward = RecRewardFrunction(
        retrieval_service_name="reward tests", namespace="tests", dataset_name="toys"
    )
    again = pickle.loads(pickle.dumps(reward))
    assert again(TEXTS, TARGETS, HISTORIES) == reward(TEXTS, TARGETS, HISTORIES)
    assert reward.__name__ == "rec_ndcg"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(make(service))
    with pytest.raises(LookupError, match="no retrieval service 'nobody'"):
        RecReward("nobody", dataset_name="toys")(TEXTS, TARGETS, HISTORIES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward_type": "bleu"}, "reward_type 'bleu'.*unknown metric"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 2**30}, "k must be between 1 and"),
        ({"ties": "lucky"}, "unknown tie rule 'lucky'"),
        ({"use_negatives_only": "no"}, "use_negatives_only must be None, True or False"),
        ({"normalize": "no"}, "normalize must be True or False"),
        ({"group_size": 4}, "group_size=4 is used by normalize=True only"),
        ({"group_size": 1, "normalize": True}, "group_size must be at least 2, got 1"),
        ({"temperature": 0}, "temperature must be more than 0 and finite, got 0"),
        ({"temperature": math.nan}, "temperature must be more than 0 and finite, got nan"),
        ({"softmax_weight": 1.5}, "softmax_weight must be at least 0 and at most 1, got 1.5"),
        ({"novelty": -1, "item_counts": [1]}, "novelty must be at least 0"),
        ({"novelty": 0.5}, r"novelty=0.5 needs item_counts"),
        ({"item_counts": [[1]]}, r"item_counts must be a whole number .* got int64 \(1, 1\)"),
        ({"item_counts": [1, -1]}, "item_counts must be a whole number of at least 0"),
        ({"item_counts": [0.5]}, "item_counts must be a whole number"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        RecReward(**options)


def test_k_is_a_whole_number():
    with pytest.raises(TypeError, match=r"k must be a whole number, got 2.0"):
        RecReward(k=2.0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"generated_texts": []}, ValueError, "generated_texts is empty"),
        ({"generated_texts": "abc"}, TypeError, "must be a list of completions, got str"),
        ({"generated_texts": None}, TypeError, "must be a list of completions, got NoneType"),
        ({"targets": [1]}, ValueError, "targets must have one id for each of the 3"),
        ({"targets": [1, 2, 99]}, IndexError, "targets: item 99"),
        ({"histories": [[1]]}, ValueError, "histories must have one list for each of the 3"),
        ({"neg_items": [[1], [2], [0]]}, IndexError, "neg_items: 0 is not an item"),
    ],
)
def test_bad_arguments_are_named(service, changes, error, words):
    arguments = {"generated_texts": TEXTS, "targets": TARGETS, "histories": HISTORIES} | changes
    with pytest.raises(error, match=words):
        make(service)(**arguments)
