"""From an original file to probabilities: a recording's do not depend on the recordings beside it."""

import numpy as np
import pytest
import torch
from test_deepecg_ssl_conversion import finetuned

from ecg_transformers import STANDARD_LEADS, ECGRecord, convert_checkpoint
from ecg_transformers.inference import ECGInference

# Samples and rate, for each recipe: those that slice take no short recordings and cut no long ones
KINDS = {
    None: [(5000, 500), (1500, 500), (2500, 250), (9000, 360), (1000, 100), (4998, 500), (10000, 1000)],
    "deepecg_ssl_original": [(5000, 500), (6000, 500), (4096, 400), (2500, 250), (6000, 500), (10000, 1000)],
    "ecg_fm": [(5000, 500), (1500, 500), (1250, 250), (3000, 360), (500, 100)],
}


@pytest.mark.parametrize("windows", ["first", "all"])
@pytest.mark.parametrize("recipe", KINDS)
@pytest.mark.filterwarnings("ignore:Slicing by stride")
def test_a_recording_alone_and_in_company(tmp_path, recipe, windows):
    convert_checkpoint(finetuned(tmp_path / "best.pt", 77), tmp_path / "model", recipe=recipe, on_note=str)
    inference = ECGInference.from_pretrained(tmp_path / "model", device="cpu", windows=windows, batch_size=2)
    # Larger weights than new ones, so that probabilities tell recordings apart
    inference.model.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    generator = np.random.default_rng(0)
    records = []
    for number, (samples, rate) in enumerate(KINDS[recipe]):
        hum = 0.1 * (number % 2) * np.sin(2 * np.pi * 50 * np.arange(samples) / rate)
        signal = generator.standard_normal((12, samples)).cumsum(axis=1) / 50 + hum
        records.append(ECGRecord(signal.astype("float64" if number == 3 else "float32"), rate, STANDARD_LEADS))
    kept = [record.signal.copy() for record in records]
    together, _, _ = inference(records)
    alone = np.stack([inference([record])[0][0] for record in records])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert np.abs(together[1:] - together[:-1]).max(axis=1).min() > 1e-3
    assert all(np.array_equal(record.signal, signal) for record, signal in zip(records, kept, strict=True))
