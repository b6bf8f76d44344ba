"""The example in docs/digital_biomarkers.md runs as it stands."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deepecg_sl_reference import Network, calibrate, randomize

from ecg_transformers.labels import biomarker_thresholds

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "digital_biomarkers.md").read_text(encoding="utf-8")


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.M | re.S)


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """A folder in which every command of the document has run; the network is small and its weights are random."""
    folder = tmp_path_factory.mktemp("biomarkers")
    (folder / "challenge-2025").symlink_to(shared_data / "challenge-2025-code15" / "records")
    (folder / "training_scripts").symlink_to(ROOT / "training_scripts")
    network = randomize(Network("b0_v2", channels=(4, 4, 6, 8, 8, 10, 12, 16)), seed=1)
    ecg = torch.randn(4, 12, 1000, generator=torch.Generator().manual_seed(0)) * 50
    torch.jit.trace(calibrate(network, ecg), ecg).save(folder / "efficientnetv2_77.pt")
    (folder / "tables.py").write_text("\n".join(code_blocks("python")))
    lines = "\n".join(code_blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line]
    assert len(commands) == 6
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for command in ["python tables.py", *commands]:
        process = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    return folder


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_what_the_headers_say(folder, shared_data):
    expected = {row["exam_id"]: row for row in read(shared_data / "challenge-2025-code15" / "labels.csv")}
    rows = read(folder / "chagas.csv")
    assert len(rows) == len(expected) == 30
    for row in rows:
        truth = expected[Path(row["filename"]).stem]
        assert row["chagas"] == str(int(truth["chagas"] == "True")) and row["patient_id"] == truth["patient_id"]
    assert all(0 < float(row["years"]) < 120 for row in read(folder / "years.csv"))


def test_the_binary_target(folder):
    for name in ("chagas", "chagas-head"):
        config = json.loads((folder / "runs" / name / "config.json").read_text())
        assert config["id2label"] == {"0": "chagas"} and config["problem_type"] == "multi_label_classification"
        assert config["threshold_criterion"] == "youden" and set(config["thresholds"]) == {"chagas"}
    runs = [json.loads((folder / "runs" / name / "run.json").read_text()) for name in ("chagas", "chagas-head")]
    assert [run["training"]["learning_rate"] for run in runs] == [1e-3, 1e-2]
    assert runs[1]["model"]["trainable_parameters"] == 17 < runs[0]["model"]["trainable_parameters"]
    rows = read(folder / "predictions.csv")
    assert len(rows) == 30 and all(0 <= float(row["chagas"]) <= 1 and row["undecided"] == "" for row in rows)


def test_the_regression_target(folder):
    config = json.loads((folder / "runs" / "age" / "config.json").read_text())
    assert config["problem_type"] == "regression" and config["id2label"] == {"0": "years"}
    metrics = json.loads((folder / "runs" / "age" / "metrics.json").read_text())["test"]
    assert {"mae", "rmse"} <= set(metrics)
    assert len(read(folder / "ages.csv")) == 30


def test_the_published_thresholds_are_those_of_the_package():
    rows = re.findall(r"^\| `efficientnetv2_.*\| `(.+)` \| (\S+) \| (\S+) \|$", TEXT, flags=re.M)
    assert len(rows) == 3
    for name, supervised, self_supervised in rows:
        assert biomarker_thresholds("deepecg_sl")[name] == float(supervised)
        assert biomarker_thresholds("deepecg_ssl")[name] == float(self_supervised)
