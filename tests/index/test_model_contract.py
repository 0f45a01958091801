"""What a model itself says about queries and documents: prompts, towers, truncation, precision."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts
from transformers import BertConfig, BertModel

from rl4rec_kernels import Encoder, ItemIndex
from tests.errors import raises
from tests.index.cases import METADATA, TEXTS

PROMPTS = {"query": "search: ", "document": "item: "}


@pytest.fixture(scope="module")
def towers(encoder, tmp_path_factory) -> list[str]:
    """Two small transformers with the packaged model's tokenizer."""
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(encoder.model.tokenizer),
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
        path = str(tmp_path_factory.mktemp(f"tower{seed}"))
        BertModel(config).save_pretrained(path)
        encoder.model.tokenizer.save_pretrained(path)
        paths.append(path)
    return paths


def make(*towers: str, mode: str = "mean", length: int = 16, **options) -> SentenceTransformer:
    """A model of one tower, or with a router of a query and a document tower."""
    made = [
        [parts.Transformer(tower, max_seq_length=length), parts.Pooling(24, pooling_mode=mode)]
        for tower in towers
    ]
    if len(made) == 1:
        return SentenceTransformer(modules=made[0], device="cpu", **options)
    router = parts.Router.for_query_document(query_modules=made[0], document_modules=made[1])
    return SentenceTransformer(modules=[router], device="cpu", **options)


def unit(vectors) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(vectors).float(), dim=1)


def check(encoder: Encoder, model: SentenceTransformer, atol: float = 1e-6) -> None:
    """Compare with what the model itself does."""
    for encode, want in (
        (encoder.encode_queries, model.encode_query(TEXTS)),
        (encoder.encode_items, model.encode_document(TEXTS)),
    ):
        torch.testing.assert_close(encode(TEXTS), unit(want), rtol=0, atol=atol)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompts": PROMPTS},
        {"prompts": PROMPTS, "default_prompt_name": "query"},
        {"prompts": {"query": "q: "}, "default_prompt_name": "query"},
        {"prompts": {"passage": "p: "}},
        {"prompts": {"topic": "t: "}, "default_prompt_name": "topic"},
        {"truncate_dim": 8, "prompts": PROMPTS},
    ],
)
@pytest.mark.parametrize("both", [False, True], ids=["one tower", "router"])
def test_queries_and_items_are_encoded_as_the_model_says(towers, both, options):
    model = make(*towers[: 1 + both], **options)
    encoder = Encoder(model, batch_size=2)
    check(encoder, model)
    assert encoder.dim == options.get("truncate_dim", 24)
    plain = make(*towers[: 1 + both], truncate_dim=options.get("truncate_dim"))
    given = Encoder(model, query_prefix="a: ", item_prefix="")
    want = unit(plain.encode_query([f"a: {text}" for text in TEXTS]))
    torch.testing.assert_close(given.encode_queries(TEXTS), want, rtol=0, atol=1e-6)
    want = unit(plain.encode_document(TEXTS))
    torch.testing.assert_close(given.encode_items(TEXTS), want, rtol=0, atol=1e-6)


def test_a_model_without_prompts_keeps_its_vectors(encoder):
    want = encoder.model.encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)
    assert torch.equal(encoder.encode_queries(TEXTS), want)
    assert torch.equal(encoder.encode_items(TEXTS), want)


def test_the_fingerprint_covers_what_decides_on_items(towers):
    one, two = towers
    encoders = {
        "plain": Encoder(make(one)),
        "prompt": Encoder(make(one, prompts=PROMPTS)),
        "other prompt": Encoder(make(one, prompts={"document": "thing: "})),
        "prefix": Encoder(make(one), item_prefix="a: "),
        "length": Encoder(make(one, length=8)),
        "pooling": Encoder(make(one, mode="cls")),
        "dimensions": Encoder(make(one, truncate_dim=8)),
        "norm": Encoder(make(one), normalize=False),
        "precision": Encoder(make(one).to(torch.bfloat16)),
        "router": Encoder(make(one, one)),
        "towers": Encoder(make(two, one)),
        "towers the other way": Encoder(make(one, two)),
        "pooling of towers": Encoder(make(one, one, mode="cls")),
        "length of towers": Encoder(make(one, one, length=8)),
    }
    mapped = make(one, one)
    mapped[0].route_mappings = {("document", None): "query"}
    encoders["route"] = Encoder(mapped)
    shorter = make(one, one)
    shorter[0].sub_modules["query"][0].max_seq_length = 8
    encoders["length of one tower"] = Encoder(shorter)
    prints = {name: encoder.fingerprint for name, encoder in encoders.items()}
    assert len(set(prints.values())) == len(prints)
    same = Encoder(make(one, prompts={"query": "other: "}), item_prefix="item: ", query_prefix="b")
    assert same.fingerprint == prints["prompt"]
    index = ItemIndex.build(METADATA, encoders["prompt"])
    for name in ("plain", "other prompt", "router"):
        with raises(ValueError, "another encoder"):
            index.check_encoder(encoders[name])
    index.check_encoder(same)


def test_openvino_follows_the_model_too(towers, tmp_path):
    pytest.importorskip("openvino")
    for name, given in (("one", towers[:1]), ("router", towers)):
        make(*given, prompts=PROMPTS).save(str(tmp_path / name))
        model = SentenceTransformer(str(tmp_path / name), device="cpu")
        fast = Encoder(str(tmp_path / name), backend="openvino")
        check(fast, model, atol=1e-5)
        assert fast.fingerprint == Encoder(model).fingerprint
        with raises(ValueError, "max_length", 65, "at most 64"):
            Encoder(str(tmp_path / name), max_length=65)
    static = parts.StaticEmbedding(fast.model.tokenizer, embedding_dim=4)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    with raises(ValueError, "backend='openvino'", "static"):
        Encoder(str(tmp_path / "static"), backend="openvino")
