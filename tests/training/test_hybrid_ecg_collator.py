import warnings

import numpy as np
import pytest
import torch

from ecg_transformers import ECGFeatureExtractor, ECGRecord, HybridECGConfig, load_corpus
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS
from ecg_transformers.training import AugmentationSettings, HybridECGCollator, sample_views
from ecg_transformers.training.hybrid_ecg_collator import spans_like_an_ecg


@pytest.fixture(scope="module")
def extractor():
    return ECGFeatureExtractor.for_model_type("hybrid_ecg")


@pytest.fixture(scope="module")
def records():
    return load_corpus("synthetic", num_patients=10, records_per_patient=1, seed=2)["train"][:4]["ecg"]


def rows_of(records, seeds=None):
    return [
        {"ecg": record, "window_seed": seed}
        for record, seed in zip(records, seeds or range(10, 10 + len(records)), strict=True)
    ]


def longer(record, times):
    return ECGRecord(np.tile(record.signal, times), record.sampling_rate, record.lead_names)


LOUD = AugmentationSettings(("amplitude", "powerline", "emg", "baseline_wander", "lead_mask"))


def test_a_batch_holds_records_masks_and_views(extractor, records):
    batch = HybridECGCollator(extractor, HybridECGConfig(), augmentations=LOUD)(rows_of(records))
    assert batch["input_values"].shape == (4, 12, 2500) and batch["lead_mask"].shape == (4, 12)
    assert batch["noise"].shape == (4, 50)
    assert batch["view_values"].shape == (4, 2, 12, 1250)
    assert "attention_mask" not in batch and "view_attention_mask" not in batch
    # What is rebuilt is the record as it is
    assert torch.equal(batch["input_values"], extractor(records, return_tensors="pt")["input_values"])


def test_views_are_crops_and_disturbed_before_the_recipe(extractor, records):
    plain = HybridECGCollator(extractor, HybridECGConfig())(rows_of(records))["view_values"]
    cut = sample_views(records, 5.0, seeds=range(10, 14))
    for number, view in enumerate(cut):
        values = extractor(view, return_tensors="pt")["input_values"]
        assert torch.equal(values[:, :, :1250], plain[:, number])
    assert not torch.equal(plain[:, 0], plain[:, 1])
    loud = HybridECGCollator(extractor, HybridECGConfig(), augmentations=LOUD)(rows_of(records))["view_values"]
    assert all(not torch.allclose(loud[row], plain[row], atol=1e-3) for row in range(4))
    # The two views of a record of their own noise
    whole = HybridECGCollator(extractor, HybridECGConfig(), 10.0, augmentations=AugmentationSettings(("emg",), 1.0))
    views = whole(rows_of(records))["view_values"]
    assert views.shape[-1] == 2500 and not torch.equal(views[:, 0], views[:, 1])


def test_a_row_does_not_depend_on_its_company(extractor, records):
    collate = HybridECGCollator(extractor, HybridECGConfig(mask_strategy="multi_scale"), 4.0, "r_peak", LOUD)
    rows = rows_of([longer(record, 3) for record in records])
    together, alone = collate(rows), collate(rows[2:3])
    for name, value in alone.items():
        assert torch.allclose(together[name][2:3], value, atol=1e-4), name
    again = collate(rows)
    assert all(torch.equal(value, again[name]) for name, value in together.items())
    other = collate(rows_of([longer(record, 3) for record in records], range(4)))
    assert all(not torch.equal(other[name], together[name]) for name in ("input_values", "noise", "view_values"))


def test_windows_of_longer_records(extractor, records):
    record = longer(records[0], 3)
    first = HybridECGCollator(extractor, HybridECGConfig(), windows="first")(rows_of([record]))["input_values"]
    seen = {
        float(HybridECGCollator(extractor, HybridECGConfig())(rows_of([record], [seed]))["input_values"][0, 1, 1000])
        for seed in range(5)
    }
    assert len(seen) == 5
    # The window is scaled by itself, and the rest of the record does not matter
    changed = record.signal.copy()
    changed[:, record.num_samples // 2 :] = 3 * changed[:, record.num_samples // 2 :]
    other = ECGRecord(changed, record.sampling_rate, record.lead_names)
    values = HybridECGCollator(extractor, HybridECGConfig(), windows="first")(rows_of([other]))["input_values"]
    assert torch.equal(first, values)


def test_short_records_are_padded_and_masked(extractor, records):
    short = ECGRecord(records[0].signal[:, :2000], records[0].sampling_rate, records[0].lead_names)
    batch = HybridECGCollator(extractor, HybridECGConfig())(rows_of([short, records[1]]))
    assert batch["attention_mask"].sum(1).tolist() == [1000, 2500]
    assert batch["view_attention_mask"].sum(2).tolist() == [[1000, 1000], [1250, 1250]]
    noise = HybridECGCollator(extractor, HybridECGConfig())(rows_of([records[0]]))["noise"]
    assert torch.equal(batch["noise"][:1], noise)


def test_only_what_the_losses_need(extractor, records):
    plain = HybridECGCollator(extractor, HybridECGConfig(contrastive_loss_weight=0), 0.01)(rows_of(records))
    assert set(plain) == {"input_values", "lead_mask", "noise"}
    contrast = HybridECGCollator(extractor, HybridECGConfig(reconstruction_loss_weight=0))(rows_of(records))
    assert set(contrast) == {"input_values", "lead_mask", "view_values"}


# Told once in a process, by whichever test is the first.
@pytest.mark.filterwarnings("ignore:Missing leads")
def test_records_of_other_rates_and_leads(extractor, records):
    half = ECGRecord(records[0].signal[:, ::2], records[0].sampling_rate / 2, records[0].lead_names)
    few = records[1].select_leads(["II", "V1", "V5"])
    batch = HybridECGCollator(extractor, HybridECGConfig(), augmentations=LOUD)(rows_of([half, few]))
    assert batch["lead_mask"].sum(1).tolist() == [12, 3]
    assert batch["view_values"].isfinite().all() and batch["view_values"].shape[-1] == 1250


def test_a_view_without_an_ecg_is_replaced(extractor, records):
    """The electrodes fell off after 4 s: views from there on would be refused as ECGs in a wrong unit."""
    signal = records[0].signal.copy()
    after = int(4 * records[0].sampling_rate)
    signal[:, after:] = 0.001 * np.sin(np.arange(signal.shape[1] - after))
    broken = ECGRecord(signal, records[0].sampling_rate, records[0].lead_names)
    collate = HybridECGCollator(extractor, HybridECGConfig(), 2.0)
    whole = HybridECGCollator(extractor, HybridECGConfig(), 2.0, windows="first")
    replaced = 0
    for seed in range(12):
        views = collate(rows_of([broken], [seed]))["view_values"][0]
        cut = sample_views([broken], 2.0, seeds=[seed])
        for number, (piece,) in enumerate(cut):
            if not spans_like_an_ecg(piece, STANDARD_LEADS):
                replaced += 1
                expected = whole.view_extractor(broken, return_tensors="pt")["input_values"][0]
                assert torch.equal(views[number], expected)
    assert replaced >= 3


def test_hidden_leads_of_views_are_not_warned_of(extractor, records):
    settings = AugmentationSettings(("lead_mask",), 1.0, lead_loss_probability=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = HybridECGCollator(extractor, HybridECGConfig(), augmentations=settings)(rows_of(records))
    constant = batch["view_values"].amax(-1) == batch["view_values"].amin(-1)
    assert constant.any() and not constant.all(-1).any()
    assert batch["lead_mask"].all()


def test_spans_like_an_ecg(records):
    record = records[0]

    def scaled(factor):
        return ECGRecord(record.signal * factor, record.sampling_rate, record.lead_names)

    assert spans_like_an_ecg(record, STANDARD_LEADS) and spans_like_an_ecg(record.select_leads(["V1"]), STANDARD_LEADS)
    for factor in (1000, 0.001, 0, np.nan):
        assert not spans_like_an_ecg(scaled(factor), STANDARD_LEADS)


def test_unusable_settings(extractor):
    with pytest.raises(ValueError, match="must hold a patch, which has 50 samples at 250 Hz, 0.2 s"):
        HybridECGCollator(extractor, HybridECGConfig(), 0.1)
    with pytest.raises(ValueError, match="'first' or 'random'; got 'all'"):
        HybridECGCollator(extractor, HybridECGConfig(), windows="all")
