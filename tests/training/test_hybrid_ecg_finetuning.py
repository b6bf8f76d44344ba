"""Fine-tuning Hybrid ECG, and the learning rates that models have by default."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecg_transformers import (
    DBetaConfig,
    DeepECGSSLConfig,
    ECGFeatureExtractor,
    ECGInference,
    ECGRecord,
    HybridECGConfig,
    HybridECGForPreTraining,
    load_corpus,
)
from ecg_transformers.feature_extraction.feature_extraction_ecg import ECGSignalWarning
from ecg_transformers.training import finetune, parse_finetuning_arguments
from ecg_transformers.training.building import config_from_size, default_learning_rate


@pytest.fixture(scope="module", params=["all_leads", "per_lead"])
def pretrained(request, tmp_path_factory):
    """A folder as pretraining leaves it, untrained."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = config_from_size("hybrid_ecg", "demo")
    config.patch_layout, config.pooling = request.param, "mean"
    torch.manual_seed(0)
    HybridECGForPreTraining(config).save_pretrained(folder)
    ECGFeatureExtractor.for_model_type("hybrid_ecg").save_pretrained(folder)
    return folder


def test_from_a_pretrained_folder(pretrained, corpus_folder, tmp_path):
    options = {"corpus": corpus_folder, "output_dir": tmp_path / "run", "model_name_or_path": pretrained}
    options |= {"bootstrap_resamples": 0, "disable_tqdm": "true", "per_device_train_batch_size": 10, "max_steps": 2}
    options |= {"use_cpu": "true", "freeze_encoder": "true"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    result = finetune(*parse_finetuning_arguments(arguments))
    config = json.loads((result.output_dir / "config.json").read_text())
    assert config["pooling"] == "mean" and set(config["thresholds"]) == set(result.label_names)
    before, after = (load_file(folder / "model.safetensors") for folder in (pretrained, result.output_dir))
    for name, value in after.items():
        assert name.startswith("classifier.") or torch.equal(value, before[name]), name
    assert not any(name.startswith(("decoder.", "projection.")) for name in after)
    recipe = json.loads((result.output_dir / "preprocessor_config.json").read_text())["recipe"]
    assert recipe == ECGFeatureExtractor.for_model_type("hybrid_ecg").recipe

    # Prediction takes for a lead without signal what training took for one: here most of V2 is missing
    inference = ECGInference.from_pretrained(result.output_dir, device="cpu")
    record = load_corpus(corpus_folder)["test"][0]["ecg"]
    signal = record.signal.copy()
    signal[7, : int(0.6 * signal.shape[1])] = np.nan
    gap = ECGRecord(signal, record.sampling_rate, record.lead_names)
    with pytest.warns(ECGSignalWarning, match="V2"):
        features = inference.extractor(gap, return_tensors="pt")
        values, _, leads = inference([gap])
    assert leads[0].tolist() == [lead != 7 for lead in range(12)] == features["lead_mask"][0].bool().tolist()
    with torch.no_grad():
        expected = inference.model(**features).logits.sigmoid().numpy()
        del features["lead_mask"]
        without = inference.model(**features).logits.sigmoid().numpy()
    assert values == pytest.approx(expected, abs=1e-6)
    assert np.abs(without - expected).max() > 1e-5


@pytest.mark.parametrize(
    "config, recipe, whole, head",
    [
        (lambda: HybridECGConfig(), "hybrid_ecg", 1e-3 * 64 / 256, 1e-3),
        (lambda: DeepECGSSLConfig(), "deepecg_ssl", 5e-5, 1e-3),
        (lambda: DBetaConfig(), "dbeta", 1e-5, 1e-3),
    ],
)
def test_default_learning_rates(config, recipe, whole, head, tmp_path):
    config().save_pretrained(tmp_path)
    start = ["--model_name_or_path", str(tmp_path), "--corpus", "x", "--output_dir", str(tmp_path / "run")]
    for options, expected in (([], whole), (["--freeze_encoder"], head), (["--unfreeze_last", "0"], head)):
        assert default_learning_rate(parse_finetuning_arguments([*start, *options])[0]) == pytest.approx(expected)
    scratch = ["--model_type", recipe, "--corpus", "x", "--output_dir", str(tmp_path / "run")]
    assert default_learning_rate(parse_finetuning_arguments(scratch)[0]) == 5e-4
