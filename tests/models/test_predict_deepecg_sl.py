"""From an original file to named findings at the published thresholds, on real recordings."""

import csv
import json

import numpy as np
import pytest
import torch
from deepecg_sl_reference import Network, calibrate, randomize

from ecg_transformers import ECGFeatureExtractor, read_ecg
from ecg_transformers.cli import main
from ecg_transformers.labels import deepecg_labels, deepecg_thresholds, label_groups

# Rates of 100 to 1000 Hz, 4 to 38 s, flat leads; WFDB, HDF5 and MATLAB
RECORDS = (
    "ptb-xl/records100/**/*.hea",
    "challenge-2025-code15/records/111102.hea",
    "challenge-2025-code15/records/9196.hea",
    "challenge-2021/ningbo/JS20004.hea",
    "ptbdb/s0010_re.hea",
    "sph-h5/SPH00001.h5",
    "cpsc2018-mat/A1980.mat",
)


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(shared_data):
    found = [sorted(shared_data.glob(pattern)) for pattern in RECORDS]
    assert all(found), RECORDS
    return [paths[0] for paths in found]


@pytest.fixture(scope="module")
def network(files):
    """A small network with random weights, whose statistics are those of real recordings."""
    inputs = ECGFeatureExtractor.for_model_type("deepecg_sl")([read_ecg(file) for file in files], return_tensors="pt")
    network = randomize(Network("b0_v2", channels=(4, 4, 6, 8, 8, 10, 12, 16)), seed=1)
    return calibrate(network, inputs.input_values)


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepecg")
    torch.jit.trace(network, torch.randn(1, 12, 2500)).save(folder / "efficientnetv2_77.pt")
    assert run("convert", folder / "efficientnetv2_77.pt", folder / "deepecg-sl-77") == 0
    return folder / "deepecg-sl-77"


def test_named_findings_in_groups(files, model, network, tmp_path, capsys):
    output = tmp_path / "predictions.csv"
    assert run("predict", *files, "--model", model, "--thresholds", "youden", "--groups", "--output", output) == 0
    assert "neither found nor excluded: Acute pericarditis" in capsys.readouterr().err
    rows = list(csv.DictReader(output.open()))
    assert [row["path"] for row in rows] == [str(file) for file in files]
    labels, thresholds = deepecg_labels("deepecg_sl"), deepecg_thresholds("deepecg_sl")
    extractor = ECGFeatureExtractor.from_pretrained(model)
    found = set()
    for row, file in zip(rows, files, strict=True):
        inputs = extractor(read_ecg(file), windows="all", return_tensors="pt")
        with torch.no_grad():
            # The original knows no padding: a window shorter than 10 s is what is real of it
            real = [int(count) for count in inputs.attention_mask.sum(1)]
            windows = [network(values[None, :, :end]) for values, end in zip(inputs.input_values, real, strict=True)]
        expected = torch.cat(windows).sigmoid().mean(0).numpy()
        np.testing.assert_allclose([float(row[name]) for name in labels], expected, atol=1e-5)
        positive = row["labels"].split(";") if row["labels"] else []
        decided = {name: float(row[name]) > limit for name, limit in thresholds.items() if limit is not None}
        assert set(positive) == {name for name, present in decided.items() if present}
        assert row["undecided"] == "Acute pericarditis"
        for group, names in label_groups().items():
            assert float(row[f"group: {group}"]) == max(float(row[name]) for name in names)
        found |= set(positive)
    assert 10 < len(found) < 77


def test_a_record_alone_and_in_company(files, model, tmp_path):
    for number in ("1", "32"):
        arguments = ("--model", model, "--output", tmp_path / f"{number}.json", "--batch_size", number)
        assert run("predict", *files, *arguments) == 0
    alone, together = (json.loads((tmp_path / f"{number}.json").read_text()) for number in ("1", "32"))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(
            list(one["probabilities"].values()), list(other["probabilities"].values()), atol=1e-5
        )
        assert one["labels"] == other["labels"]


def test_other_criteria_than_the_stored_one(files, model, capsys):
    assert run("predict", files[0], "--model", model, "--thresholds", "f1") == 1
    assert "chosen by 'youden', not 'f1'" in capsys.readouterr().err
