"""D-BETA's processor: recordings and texts to model input, saving, opening, what it refuses."""

import copy
import json
import os

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor, AutoTokenizer, T5Tokenizer

from ecg_transformers import (
    STANDARD_LEADS,
    DBetaConfig,
    DBetaForSequenceClassification,
    DBetaModel,
    ECGFeatureExtractor,
    ECGRecord,
)
from ecg_transformers.models.dbeta.processing_dbeta import DBetaProcessor
from ecg_transformers.training.report_tokenizer import train_report_tokenizer

REPORTS = ["sinus rhythm", "atrial fibrillation", "left bundle branch block", "normal ecg"]
NAMES = {"input_values", "attention_mask", "input_ids", "text_attention_mask"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_report_tokenizer(REPORTS, vocab_size=200)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return DBetaProcessor(ECGFeatureExtractor.for_model_type("dbeta"), tokenizer)


def tiny_config(**overrides):
    return DBetaConfig(
        ecg_config={
            "conv_dim": [8, 8, 8, 8],
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        text_config={
            "vocab_size": 200,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 1,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
        },
        cross_modal_config={"num_hidden_layers": 1, "num_attention_heads": 2},
        decoder_config={
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "fusion_layer": 0,
        },
        hidden_size=16,
        **overrides,
    )


def record(samples=5000, seed=0, rate=500, leads=STANDARD_LEADS):
    signal = np.random.default_rng(seed).normal(scale=0.3, size=(len(leads), samples)).astype(np.float32)
    return ECGRecord(signal, rate, leads)


def test_recordings_and_texts(processor):
    records = [record(), record(2400, 1, 400), record(12500, 2, 1000)]
    texts = ["Sinus rhythm", "Left Bundle Branch Block"]
    batch = processor(ecg=records, text=texts, return_tensors="pt")
    assert set(batch) == NAMES
    assert batch.input_values.shape == (3, 12, 5000) and batch.attention_mask.shape == (3, 5000)
    assert batch.attention_mask.sum(-1).tolist() == [5000, 3000, 5000]
    assert batch.input_ids.shape == batch.text_attention_mask.shape and len(batch.input_ids) == 2
    for name, value in processor.feature_extractor(records, return_tensors="pt").items():
        assert name == "lead_mask" or torch.equal(batch[name], value)
    model = DBetaModel(tiny_config()).eval()
    with torch.no_grad():
        outputs = model(**batch)
        assert outputs.logits_per_ecg.shape == (3, 2)
        # A text beside a longer one gives what it gives alone
        alone = model(**processor(text=texts[0], return_tensors="pt"))
    torch.testing.assert_close(outputs.text_embeds[:1], alone.text_embeds, atol=1e-6, rtol=0)


def test_texts(processor):
    batch = processor(text=["Sinus RHYTHM", "atrial fibrillation"])
    assert set(batch) == {"input_ids", "text_attention_mask"}
    decoded = [
        processor.decode([token for token, real in zip(ids, mask, strict=True) if real], skip_special_tokens=True)
        for ids, mask in zip(batch.input_ids, batch.text_attention_mask, strict=True)
    ]
    assert decoded == ["sinus rhythm", "atrial fibrillation"]
    assert batch.input_ids[0][batch.text_attention_mask[0].index(0) - 1] == 1  # </s> ends every text
    assert processor(text="a").input_ids == processor(text=["A"]).input_ids == processor(text=("a",)).input_ids
    assert processor(text="A", lower_case=False).input_ids != processor(text="a").input_ids
    long = "sinus rhythm " * 400
    assert len(processor(text=long).input_ids[0]) == 256
    assert len(processor(text=long, max_length=7).input_ids[0]) == 7
    assert processor(text=long, max_length=7).input_ids[0][-1] == 1
    assert len(processor(text=long, truncation=False).input_ids[0]) > 800
    assert processor(text=["a", "a b c"], padding="max_length", max_length=9, return_tensors="np").input_ids.shape == (
        2,
        9,
    )
    lengths = [len(ids) for ids in processor(text=["a", "a b c"], padding=False).input_ids]
    assert lengths[0] < lengths[1]
    stated = train_report_tokenizer(REPORTS, vocab_size=200, max_length=12)
    assert len(DBetaProcessor(processor.feature_extractor, stated)(text=long).input_ids[0]) == 12


def test_texts_begin_with_their_first_token_whatever_the_side_of_the_tokenizer(processor, tokenizer):
    """The first token is pooled."""
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    texts = ["a", "atrial fibrillation"]
    expected = processor(text=texts, return_tensors="pt")
    batch = DBetaProcessor(processor.feature_extractor, left)(text=texts, return_tensors="pt")
    assert batch.text_attention_mask[0, 0] == 1 and batch.text_attention_mask[0, -1] == 0
    assert batch.input_ids.tolist() == expected.input_ids.tolist()


def test_recordings(processor):
    batch = processor(ecg=record())
    assert set(batch) == {"input_values", "attention_mask"} and isinstance(batch.input_values, np.ndarray)
    batch = processor(
        ecg=record(leads=STANDARD_LEADS[::-1]).signal * 1000,
        sampling_rate=500,
        lead_names=STANDARD_LEADS[::-1],
        units="uV",
        return_lead_mask=True,
        return_tensors="pt",
    )
    np.testing.assert_allclose(batch.input_values[0], record().signal[::-1], atol=1e-5)
    assert batch.lead_mask.tolist() == [[1] * 12]
    every = processor(ecg=[record(), record(12000)], windows="all", return_tensors="pt")
    assert every.record_index.tolist() == [0, 1, 1, 1] and every.input_values.shape == (4, 12, 5000)
    draws = [processor(ecg=record(9000), windows="random", generator=seed).input_values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 0.1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "`ecg=`, `text=` or both"),
        ({"text": []}, "an empty list"),
        ({"text": ["a", None]}, "text 1 is a NoneType"),
        ({"text": [["a"]]}, "text 0 is a list"),
        ({"ecg": np.zeros((12, 5000))}, "sampling_rate="),
        ({"ecg": "record.hea"}, "read_ecg"),
        ({"ecg": [], "sampling_rate": 500}, "empty list"),
        ({"ecg": record(), "windows": "last"}, "'first', 'random' or 'all'"),
    ],
)
def test_refusals(processor, arguments, words):
    with pytest.raises(ValueError, match=words):
        processor(**arguments)


def test_the_parts_are_checked(processor, tokenizer):
    with pytest.raises(TypeError, match="feature_extractor"):
        DBetaProcessor(tokenizer, tokenizer)
    with pytest.raises(TypeError, match="feature_extractor"):
        DBetaProcessor()
    with pytest.raises(TypeError, match="tokenizer"):
        DBetaProcessor(processor.feature_extractor, processor.feature_extractor)


@pytest.mark.parametrize("with_model", [True, False])
def test_a_saved_folder_opens_again(processor, tmp_path, with_model):
    if with_model:
        DBetaModel(tiny_config()).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    written = {"preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in tmp_path.iterdir()} == written | (
        {"config.json", "model.safetensors"} if with_model else set()
    )
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is DBetaProcessor
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is T5Tokenizer
    for opener in (AutoFeatureExtractor, ECGFeatureExtractor):
        extractor = opener.from_pretrained(tmp_path)
        assert type(extractor) is ECGFeatureExtractor
        assert extractor.to_dict() == processor.feature_extractor.to_dict()
    inputs = {"ecg": [record(), record(3000, 1)], "text": REPORTS, "return_tensors": "pt"}
    before, after = processor(**inputs), again(**inputs)
    assert all(torch.equal(before[name], after[name]) for name in NAMES)
    again.save_pretrained(tmp_path / "again")
    third = AutoProcessor.from_pretrained(tmp_path / "again")
    assert third.to_dict() == processor.to_dict()
    assert third.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert all(torch.equal(before[name], value) for name, value in third(**inputs).items())
    with pytest.raises(ValueError, match="Push the model folder"):
        processor.save_pretrained(tmp_path, push_to_hub=True)


def test_a_folder_without_tokenizer_says_which_and_how(processor, tmp_path):
    folder = tmp_path / "folder"
    DBetaModel(tiny_config()).save_pretrained(folder)
    processor.feature_extractor.save_pretrained(folder)
    for opener in (AutoProcessor, DBetaProcessor):
        with pytest.raises(OSError, match="no tokenizer.*200 is not that of google/flan-t5-base.*32128") as caught:
            opener.from_pretrained(folder)
        assert str(folder) in str(caught.value) and "save_pretrained" in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 32128
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OSError, match="that of google/flan-t5-base") as caught:
        AutoProcessor.from_pretrained(folder)
    assert f"AutoTokenizer.from_pretrained('google/flan-t5-base').save_pretrained('{folder}')" in str(caught.value)
    assert "--tokenizer google/flan-t5-base" in str(caught.value)
    # What the message says to do, with a tokenizer that is here
    processor.tokenizer.save_pretrained(tmp_path / "tokenizer")
    AutoTokenizer.from_pretrained(tmp_path / "tokenizer").save_pretrained(folder)
    assert type(AutoProcessor.from_pretrained(folder)) is DBetaProcessor
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(OSError, match="tokenizer in .* cannot be read"):
        AutoProcessor.from_pretrained(folder)


def test_a_model_without_text_encoder_needs_no_tokenizer(processor, tmp_path):
    DBetaForSequenceClassification(tiny_config()).save_pretrained(tmp_path)
    processor.feature_extractor.save_pretrained(tmp_path)
    alone = AutoProcessor.from_pretrained(tmp_path)
    assert type(alone) is DBetaProcessor and alone.tokenizer is None
    batch = alone(ecg=record(), return_tensors="pt")
    assert AutoModel.from_pretrained(tmp_path).get_ecg_features(**batch).shape == (1, 16)
    with pytest.raises(ValueError, match="no tokenizer"):
        alone(text="sinus rhythm")
    alone.save_pretrained(tmp_path / "again")
    assert os.listdir(tmp_path / "again") == ["preprocessor_config.json"]


def test_a_model_folder_without_recipe_gets_that_of_its_type(processor, tmp_path):
    DBetaModel(tiny_config()).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    (tmp_path / "preprocessor_config.json").write_text('{"recipe": [')
    with pytest.raises((OSError, ValueError)):
        AutoProcessor.from_pretrained(tmp_path)
    with pytest.raises(OSError):
        DBetaProcessor.from_pretrained(tmp_path / "nowhere")
