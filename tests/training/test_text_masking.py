import math

import pytest
import torch

from ecg_transformers.training.report_tokenizer import train_report_tokenizer
from ecg_transformers.training.text_masking import IGNORED_LABEL, ReportMasker

REPORTS = ["sinus rhythm, left bundle branch block", "atrial fibrillation", "first degree av block"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_report_tokenizer(REPORTS * 3, vocab_size=300, num_sentinels=5)


@pytest.fixture
def batch(tokenizer):
    return tokenizer(REPORTS, padding=True, return_tensors="pt")


def test_chosen_tokens_are_corrupted_and_labelled(tokenizer, batch):
    masker = ReportMasker(tokenizer)
    assert masker.probability == 0.25
    uniforms = torch.full((*batch.input_ids.shape, 3), 0.99)
    uniforms[0, 0] = torch.tensor([0.24, 0.79, 0.0])  # masked
    uniforms[0, 1] = torch.tensor([0.0, 0.89, 0.0])  # left as it is
    uniforms[0, 2] = torch.tensor([0.1, 0.95, 0.5])  # another token
    uniforms[1, 0] = torch.tensor([0.26, 0.0, 0.0])  # not chosen
    corrupted, labels = masker(batch.input_ids, batch.attention_mask, uniforms)
    expected = batch.input_ids.clone()
    expected[0, 0] = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    expected[0, 2] = masker.ordinary_ids[int(0.5 * len(masker.ordinary_ids))]
    assert torch.equal(corrupted, expected)
    told = labels != IGNORED_LABEL
    assert told.nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    assert torch.equal(labels[told], batch.input_ids[told])


def test_special_tokens_and_padding_are_never_chosen(tokenizer):
    batch = tokenizer(["sinus <extra_id_1> rhythm", *REPORTS], padding=True, return_tensors="pt")
    masker = ReportMasker(tokenizer, probability=1.0)
    corrupted, labels = masker(batch.input_ids, batch.attention_mask, torch.zeros(*batch.input_ids.shape, 3))
    first_sentinel = len(tokenizer) - 5
    special = (batch.input_ids < 3) | (batch.input_ids >= first_sentinel)
    assert special.sum() > 5
    assert torch.equal(corrupted[special], batch.input_ids[special])
    assert torch.equal(labels == IGNORED_LABEL, special)
    assert (corrupted[~special] == masker.mask_token_id).all()


def test_shares_are_those_of_bert(tokenizer):
    ids = torch.full((200, 100), tokenizer.convert_tokens_to_ids("▁block"))
    masker = ReportMasker(tokenizer, 0.25)
    corrupted, labels = masker(ids, torch.ones_like(ids), generator=torch.Generator().manual_seed(1))
    chosen = labels != IGNORED_LABEL
    count = int(chosen.sum())
    assert chosen.float().mean() == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / ids.numel()))
    masked = (corrupted[chosen] == masker.mask_token_id).float().mean()
    assert masked == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / count))
    kept = (corrupted[chosen] == ids[chosen]).float().mean()
    assert kept == pytest.approx(0.1, abs=4 * math.sqrt(0.1 / count))
    assert torch.equal(corrupted[~chosen], ids[~chosen])
    other = corrupted[chosen & (corrupted != ids) & (corrupted != masker.mask_token_id)]
    assert len(other.unique()) > 20 and other.min() > 2 and other.max() < len(tokenizer) - 5
    again = masker(ids, torch.ones_like(ids), generator=torch.Generator().manual_seed(1))
    assert torch.equal(again[0], corrupted) and torch.equal(again[1], labels)


def test_tokenizer_without_the_mask_token_is_refused(tokenizer):
    with pytest.raises(ValueError, match="'<extra_id_7>'"):
        ReportMasker(tokenizer, mask_token="<extra_id_7>")
    with pytest.raises(ValueError, match="lies in"):
        ReportMasker(tokenizer, probability=-0.1)
