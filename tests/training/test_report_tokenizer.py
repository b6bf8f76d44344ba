import pytest
from transformers import AutoTokenizer, T5Tokenizer

from ecg_transformers.training.report_tokenizer import train_report_tokenizer

TEXTS = [
    "sinus rhythm, left bundle branch block",
    "atrial fibrillation, right bundle branch block",
    "sinus tachycardia, first degree av block",
    "sinus bradycardia. anterior st elevation, überleitung",
] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_report_tokenizer(TEXTS, vocab_size=400)


def test_layout_is_that_of_t5(tokenizer):
    assert isinstance(tokenizer, T5Tokenizer)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert 150 < len(tokenizer) <= 400
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(100)])
    assert sentinels == list(range(len(tokenizer) - 1, len(tokenizer) - 101, -1))
    assert set(tokenizer.get_vocab().values()) == set(range(len(tokenizer)))


def test_texts_become_tokens_with_an_end_and_back(tokenizer):
    batch = tokenizer(["sinus rhythm", "left bundle branch block, sinus rhythm"], padding=True, return_tensors="pt")
    assert batch.input_ids.shape == batch.attention_mask.shape
    lengths = batch.attention_mask.sum(1)
    assert (batch.input_ids.gather(1, lengths[:, None] - 1) == 1).all()
    assert (batch.input_ids[batch.attention_mask == 0] == 0).all()
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == [
        "sinus rhythm",
        "left bundle branch block, sinus rhythm",
    ]
    # Frequent words are pieces of their own.
    words = ["▁left", "▁bundle", "▁branch", "▁block"]
    assert tokenizer.tokenize("left bundle branch block") == words
    assert tokenizer.tokenize("left bundle branch block,") == [*words, ","]


def test_words_never_seen_are_not_unknown(tokenizer):
    ids = tokenizer("pr 240 ms; qrs-axis = +30° (wenckebach?) über").input_ids
    assert tokenizer.convert_ids_to_tokens([token for token in ids if token == 2]) == ["<unk>"]  # the degree sign


def test_sentinels_stay_whole(tokenizer):
    ids = tokenizer("sinus <extra_id_0> block").input_ids
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") in ids
    assert "sinus" in tokenizer.decode(ids) and "block" in tokenizer.decode(ids)


def test_saved_folder_opens_with_the_auto_class(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    texts = ["atrial fibrillation <extra_id_0> 3:1", "sinus rhythm"]
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), T5Tokenizer.from_pretrained(tmp_path)):
        assert isinstance(loaded, T5Tokenizer) and len(loaded) == len(tokenizer)
        assert loaded(texts).input_ids == tokenizer(texts).input_ids
        assert loaded.pad_token_id == 0 and loaded.eos_token_id == 1


def test_the_order_of_the_texts_does_not_matter(tokenizer):
    other = train_report_tokenizer(reversed(TEXTS), vocab_size=400)
    assert other.get_vocab() == tokenizer.get_vocab()


def test_size_is_an_upper_limit():
    small = train_report_tokenizer(TEXTS, vocab_size=90, num_sentinels=1)
    assert len(small) <= 90 and small.convert_tokens_to_ids("<extra_id_0>") == len(small) - 1
    assert 2 not in small("left bundle branch block").input_ids


def test_length_limit():
    limited = train_report_tokenizer(TEXTS, vocab_size=400, max_length=6)
    ids = limited(TEXTS[0], truncation=True).input_ids
    assert len(ids) == 6 and ids[-1] == 1


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no text"),
        (["", "  "], {}, "no text"),
        (TEXTS, {"vocab_size": 60}, "too small"),
        (TEXTS, {"num_sentinels": 0}, "at least 1"),
    ],
)
def test_impossible_requests_are_refused(texts, options, message):
    with pytest.raises(ValueError, match=message):
        train_report_tokenizer(texts, **options)
