import numpy as np
import pytest
import torch

from ecg_transformers import ECGFeatureExtractor, ECGRecord
from ecg_transformers.training.dbeta_building import build_dbeta
from ecg_transformers.training.dbeta_collator import DBetaPretrainingCollator
from ecg_transformers.training.negative_sampling import NegativeReports, TfidfEmbedder
from ecg_transformers.training.pretraining_arguments import PretrainingModelArguments, ReportArguments
from ecg_transformers.training.report_tokenizer import train_report_tokenizer
from ecg_transformers.training.reports import clean_report, split_statements

REPORTS = [
    "Sinus rhythm. Normal EKG",
    "Atrial fibrillation, left bundle branch block ***",
    "Sinus tachycardia",
    "- Paced rhythm",
    "sinus bradycardia, first degree AV block",
    "Atrial flutter with 2:1 conduction",
    "Acute anterior infarction",
    "Low voltage",
]
CLEANED = [clean_report(report) for report in REPORTS]
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def record(seed, seconds=10, rate=500):
    signal = np.random.default_rng(seed).normal(size=(12, seconds * rate)).astype(np.float32)
    return ECGRecord(signal, rate, LEADS)


@pytest.fixture(scope="module")
def rows():
    return [
        {"ecg": record(number), "report": report, "window_seed": 100 + number} for number, report in enumerate(REPORTS)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return train_report_tokenizer(CLEANED, vocab_size=300)


@pytest.fixture(scope="module")
def make(tokenizer):
    extractor = ECGFeatureExtractor.for_model_type("dbeta")
    bank = NegativeReports(CLEANED, TfidfEmbedder(CLEANED))

    def make(**options):
        return DBetaPretrainingCollator(extractor, tokenizer, options.pop("negatives", bank), **options)

    return make


def restore(batch):
    """The token numbers before the corruption."""
    return torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])


def texts_of(batch, tokenizer):
    return tokenizer.batch_decode(restore(batch), skip_special_tokens=True)


def test_what_the_model_reads_and_restores_is_the_report_that_the_label_speaks_of(make, rows, tokenizer):
    batch = make(mlm_probability=0.4)(rows)
    texts, own = texts_of(batch, tokenizer), tokenizer.batch_decode(tokenizer(CLEANED).input_ids, True)
    aligned = batch["is_aligned"].tolist()
    assert set(aligned) == {0.0, 1.0}
    for row, (text, is_aligned) in enumerate(zip(texts, aligned, strict=True)):
        assert (text == own[row]) == bool(is_aligned)
        assert text in own
    # Tokens of swapped reports are corrupted and labelled like those of others.
    swapped = batch["is_aligned"] == 0
    hidden = batch["labels"] >= 0
    assert hidden[swapped].any() and hidden[~swapped].any()
    changed = batch["input_ids"] != restore(batch)
    assert changed[swapped].any() and not (changed & ~hidden).any()
    mask_token = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    assert (batch["input_ids"][changed] == mask_token).any()


def test_swapped_reports_reach_the_forward_pass(make, rows, tokenizer, tiny_dbeta_overrides):
    arguments = PretrainingModelArguments(config_overrides=tiny_dbeta_overrides)
    model = build_dbeta(arguments, ReportArguments(), tokenizer).model
    batch = make(mlm_probability=0.0, lead_mask_probability=0.0)(rows)
    seen = []
    model.dbeta.text_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("input_ids", args[0] if args else None)), with_kwargs=True
    )
    outputs = model(**batch)
    own = tokenizer(CLEANED, padding=True, return_tensors="pt").input_ids
    width = min(own.shape[1], seen[0].shape[1])
    same = (seen[0][:, :width] == own[:, :width]).all(1)
    assert torch.equal(same, batch["is_aligned"].bool()) and not same.all()
    assert outputs.loss.isfinite()


def test_share_of_swaps():
    texts = [f"report {number}" for number in range(40)]
    collator = DBetaPretrainingCollator(
        None, train_report_tokenizer(texts, vocab_size=200), NegativeReports(texts, TfidfEmbedder(texts))
    )
    _, is_aligned = collator.choose_reports(texts * 50, range(2000))
    assert is_aligned.mean().item() == pytest.approx(0.5, abs=0.045)
    for share in (0.0, 1.0):
        collator.negative_share = share
        reports, is_aligned = collator.choose_reports(texts, range(40))
        assert (is_aligned == 1 - share).all()
        assert all((report == text) == (share == 0) for report, text in zip(reports, texts, strict=True))


def test_without_a_bank_all_reports_are_their_own(make, rows, tokenizer):
    batch = make(negatives=None, mlm_probability=0.0)(rows)
    assert (batch["is_aligned"] == 1).all() and (batch["labels"] == -100).all()
    assert texts_of(batch, tokenizer)[0] == "sinus rhythm. normal ecg"


def test_one_statement_of_each_report(make, tokenizer):
    report = "Sinus rhythm. Left bundle branch block, first degree AV block"
    rows = [{"ecg": record(0), "report": report, "window_seed": seed} for seed in range(60)]
    batch = make(negatives=None, statements="one", mlm_probability=0.0)(rows)
    texts = texts_of(batch, tokenizer)
    assert set(texts) == {"sinus rhythm", "left bundle branch block", "first degree av block"}
    assert min(texts.count(text) for text in set(texts)) > 8
    # Of a swapped report the statements are those of the other.
    swapped = make(statements="one", mlm_probability=0.0, negative_share=1.0)(rows[:20])
    statements = {statement for text in CLEANED for statement in split_statements(text)}
    decoded = {tokenizer.decode(tokenizer(statement).input_ids, True) for statement in statements}
    assert set(texts_of(swapped, tokenizer)) <= decoded and not swapped["is_aligned"].any()


def test_a_row_does_not_depend_on_the_batch(make, rows):
    collator = make(count_tokens=lambda samples: samples // 16)
    together = collator(rows)
    assert together["noise"].shape == (8, 312)
    for row in (0, 3):
        alone = collator([rows[row]])
        length = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "text_attention_mask"):
            assert torch.equal(alone[name][0], together[name][row, :length])
        for name in ("input_values", "is_aligned", "noise"):
            assert torch.equal(alone[name][0], together[name][row])
    later = collator([{**row, "window_seed": row["window_seed"] + 1000} for row in rows])
    assert not torch.equal(later["noise"], together["noise"])
    assert not torch.equal(later["input_values"] == 0, together["input_values"] == 0)


def test_leads_are_masked_in_whole(make, rows):
    batch = make()(rows)
    zero = (batch["input_values"] == 0).all(-1)
    assert batch["input_values"].shape == (8, 12, 5000) and 20 < zero.sum() < 76
    full = make(lead_mask_probability=0.0)(rows)["input_values"]
    assert torch.equal(batch["input_values"][~zero], full[~zero]) and not (full == 0).all(-1).any()


def test_windows_of_10_seconds(make):
    rows = [
        {"ecg": record(1, 30), "report": "a", "window_seed": 3},
        {"ecg": record(2, 6), "report": "b", "window_seed": 4},
    ]
    collate = make(negatives=None, lead_mask_probability=0.0)
    batch = collate(rows)
    assert batch["input_values"].shape == (2, 12, 5000)
    assert batch["attention_mask"].sum(1).tolist() == [5000, 3000]
    assert torch.equal(collate(rows)["input_values"], batch["input_values"])
    other = collate([{**row, "window_seed": 77} for row in rows])["input_values"]
    assert not torch.equal(other[0], batch["input_values"][0])
    assert torch.equal(other[1], batch["input_values"][1])
    first = make(negatives=None, lead_mask_probability=0.0, windows="first")(rows)["input_values"]
    torch.testing.assert_close(first[0], torch.from_numpy(rows[0]["ecg"].signal[:, :5000]), rtol=0, atol=1e-5)
    assert "attention_mask" not in collate(rows[:1])


def test_long_reports_are_cut(make, rows):
    long = [{**rows[0], "report": "sinus rhythm " * 50}]
    batch = make(negatives=None, max_text_size=20)(long)
    assert batch["input_ids"].shape == (1, 18)
    assert restore(batch)[0, -1] == 1


def test_reports_begin_with_their_first_token_whatever_the_side_of_the_tokenizer(make, rows, tokenizer, monkeypatch):
    """The first token is pooled."""
    expected = make()(rows)
    monkeypatch.setattr(tokenizer, "padding_side", "left")
    batch = make()(rows)
    assert (batch["text_attention_mask"][:, 0] == 1).all() and not batch["text_attention_mask"].all()
    assert torch.equal(batch["input_ids"], expected["input_ids"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": "all"}, "'first' or 'random'"),
        ({"negative_share": 1.2}, "lies in"),
        ({"statements": "some"}, "'all' or 'one'"),
        ({"max_text_size": 3}, "max_text_size"),
        ({"mask_token": "[MASK]"}, "no token"),
    ],
)
def test_settings_that_do_not_fit(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
