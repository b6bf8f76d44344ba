import collections

import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config, T5EncoderModel

from ecg_transformers.training import negative_sampling
from ecg_transformers.training.negative_sampling import (
    NegativeReports,
    T5Embedder,
    TfidfEmbedder,
    embed_with_cache,
    make_embedder,
    normalize_embeddings,
    unique_texts,
)
from ecg_transformers.training.report_tokenizer import train_report_tokenizer

REPORTS = [
    "sinus rhythm",
    "sinus rhythm, left bundle branch block",
    "sinus tachycardia",
    "atrial fibrillation",
    "atrial fibrillation, right bundle branch block",
    "sinus bradycardia, first degree av block",
    "paced rhythm",
]


def backends():
    try:
        import faiss  # noqa: F401
    except ImportError:
        return [False]
    return [False, True]


@pytest.fixture(params=backends(), ids=lambda use: "faiss" if use else "torch")
def use_faiss(request):
    return request.param


@pytest.fixture(scope="module")
def recorded(golden):
    return load_file(golden / "dbeta" / "n3s" / "data.safetensors")


def bank_of(embeddings, **options):
    texts = [f"report {row}" for row in range(len(embeddings))]
    return NegativeReports(texts, lambda texts: pytest.fail("not asked for"), embeddings=embeddings, **options)


def test_recorded_search(recorded, use_faiss):
    bank = bank_of(recorded["bank_embeddings"], use_faiss=use_faiss)
    torch.testing.assert_close(bank.embeddings, recorded["bank_normalised"], rtol=0, atol=1e-6)
    queries = recorded["query_embeddings"]
    torch.testing.assert_close(normalize_embeddings(queries), recorded["query_normalised"], rtol=0, atol=1e-6)
    distances, rows = bank.search(queries, 10)
    torch.testing.assert_close(distances, recorded["topk_distances"], rtol=0, atol=1e-5)
    assert torch.equal(rows, recorded["topk_indices"])
    # The whole ranking, but for neighbours that float32 cannot tell apart.
    distances, rows = bank.search(queries, 160)
    torch.testing.assert_close(distances, 2 + 2 * recorded["cosine"].gather(1, rows), rtol=0, atol=1e-5)
    expected = recorded["full_ranking"]
    assert torch.equal(rows.sort(-1).values, expected.sort(-1).values)
    torch.testing.assert_close(
        recorded["cosine"].gather(1, rows), recorded["cosine"].gather(1, expected), rtol=0, atol=2e-6
    )
    assert (rows == expected).float().mean() > 0.98


def test_most_similar_is_the_other_end(recorded, use_faiss):
    bank = bank_of(recorded["bank_embeddings"], kind="similar", use_faiss=use_faiss)
    distances, rows = bank.search(recorded["query_embeddings"], 10)
    torch.testing.assert_close(distances, 2 - 2 * recorded["cosine"].gather(1, rows), rtol=0, atol=1e-5)
    assert torch.equal(rows, recorded["full_ranking"].flip(-1)[:, :10])


def test_queries_in_pieces_give_the_same(recorded, monkeypatch):
    bank = bank_of(recorded["bank_embeddings"], use_faiss=False)
    distances, rows = bank.search(recorded["query_embeddings"], 10)
    monkeypatch.setattr(negative_sampling, "_TABLE_ENTRIES", 2 * 160)
    in_pieces = bank.search(recorded["query_embeddings"], 10)
    torch.testing.assert_close(in_pieces[0], distances)
    assert torch.equal(in_pieces[1], rows)


def test_draws_are_uniform_over_the_candidates(recorded, use_faiss):
    bank = bank_of(recorded["bank_embeddings"], k=10, use_faiss=use_faiss)
    _, rows = bank.search(bank.embeddings[[5]], 10)
    assert 5 not in rows
    drawn = bank.draw(["report 5"] * 1000, (torch.arange(1000) + 0.5) / 1000)
    counts = collections.Counter(drawn)
    assert counts == {f"report {row}": 100 for row in rows[0].tolist()}


def test_hard_negatives_are_never_the_report_itself(recorded, use_faiss):
    bank = bank_of(recorded["bank_embeddings"], k=3, kind="similar", use_faiss=use_faiss)
    _, rows = bank.search(bank.embeddings[[5]], 4)
    assert rows[0, 0] == 5
    drawn = bank.draw(["report 5"] * 300, torch.rand(300))
    assert set(drawn) == {f"report {row}" for row in rows[0, 1:].tolist()}


@pytest.mark.parametrize("kind", negative_sampling.KINDS)
def test_same_text_is_in_the_bank_once_and_never_its_own_negative(kind):
    texts = REPORTS * 5
    bank = NegativeReports(texts, TfidfEmbedder(texts), kind=kind)
    assert len(bank) == len(REPORTS) == len(unique_texts(texts))
    for text in REPORTS:
        assert text not in bank.draw([text] * 50, torch.rand(50))
    # Fewer texts than k: all others are candidates.
    assert set(bank.draw([REPORTS[0]] * 200, torch.arange(200) / 200)) == set(REPORTS[1:])
    assert bank.draw([], torch.rand(0)) == []


def test_words_decide_what_is_similar():
    embed = TfidfEmbedder(REPORTS)
    query = "sinus rhythm, left bundle branch block"
    candidates = {}
    for kind in negative_sampling.KINDS:
        bank = NegativeReports(REPORTS, embed, k=2, kind=kind)
        candidates[kind] = set(bank.draw([query] * 20, (torch.arange(20) + 0.5) / 20))
    assert candidates["similar"] == {"sinus rhythm", "atrial fibrillation, right bundle branch block"}
    assert "atrial fibrillation" in candidates["dissimilar"] and not candidates["dissimilar"] & candidates["similar"]


def test_reports_outside_the_bank_are_embedded():
    bank = NegativeReports(REPORTS, TfidfEmbedder(REPORTS), k=1, kind="similar")
    drawn = bank.draw(["known atrial fibrillation", REPORTS[0]], torch.tensor([0.5, 0.5]))
    assert drawn[0] == "atrial fibrillation" and drawn[1] != REPORTS[0]


def test_many_words_are_reduced():
    generator = torch.Generator().manual_seed(0)
    words = [f"w{number}" for number in range(300)]
    texts = [" ".join(words[int(word)] for word in torch.randint(300, (6,), generator=generator)) for _ in range(200)]
    embed = TfidfEmbedder(texts, dimensions=32)
    embeddings = embed(texts)
    assert embeddings.shape == (200, 32) and embeddings.dtype == torch.float32
    assert torch.equal(TfidfEmbedder(texts, dimensions=32)(texts), embeddings)
    bank = NegativeReports(texts, embed, k=1, kind="similar")
    near = bank.draw([f"{texts[3]} w1"], torch.tensor([0.0]))
    assert near == [texts[3]]
    assert embed(["nothing known"]).abs().sum() == 0


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = train_report_tokenizer(REPORTS, vocab_size=200)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, num_heads=2, d_ff=32, num_layers=2, initializer_factor=0.1
    )
    T5EncoderModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_t5_embeddings_are_means_over_the_tokens_of_a_text(t5_folder):
    embed = T5Embedder(str(t5_folder), batch_size=3, device="cpu")
    embeddings = embed(REPORTS)
    assert embeddings.shape == (len(REPORTS), 16) and not embeddings.requires_grad
    for text, embedding in zip(REPORTS, embeddings, strict=True):
        hidden = embed._model(**embed._tokenizer(text, return_tensors="pt")).last_hidden_state
        torch.testing.assert_close(embedding, hidden[0].mean(0), rtol=1e-4, atol=1e-5)
    bank = NegativeReports(REPORTS, make_embedder(str(t5_folder), REPORTS))
    assert bank.draw([REPORTS[1]], torch.tensor([0.3]))[0] in REPORTS


def test_folder_without_an_encoder_is_refused(t5_folder, tmp_path):
    with pytest.raises(ValueError, match="google/flan-t5-small"):
        T5Embedder(str(tmp_path))
    config = T5Config.from_pretrained(t5_folder)
    config.num_layers = 3
    for path in t5_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks .* tensors"):
        T5Embedder(str(tmp_path))


def test_embeddings_are_read_back_if_they_belong_to_the_texts(tmp_path):
    calls = []

    class Embed:
        name = "count"

        def __call__(self, texts):
            calls.append(len(texts))
            return torch.arange(len(texts) * 2.0).reshape(len(texts), 2)

    path = tmp_path / "embeddings.safetensors"
    first = embed_with_cache(Embed(), REPORTS, path)
    assert torch.equal(embed_with_cache(Embed(), REPORTS, path), first) and calls == [len(REPORTS)]
    embed_with_cache(Embed(), REPORTS[:3], path)
    assert calls == [len(REPORTS), 3] and [entry.name for entry in tmp_path.iterdir()] == [path.name]
    path.write_bytes(path.read_bytes()[:20])
    embed_with_cache(Embed(), REPORTS[:3], path)
    assert calls == [len(REPORTS), 3, 3]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a b", "a b"], {}, "two different"),
        (REPORTS, {"kind": "random"}, "'dissimilar' or 'similar'"),
        (REPORTS, {"k": 0}, "at least 1"),
        (REPORTS, {"embeddings": torch.rand(2, 3)}, "shape"),
    ],
)
def test_impossible_banks_are_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        NegativeReports(texts, TfidfEmbedder(texts), **options)
