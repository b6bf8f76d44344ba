"""Corpora through the whole of a fine-tuning: a model of a few thousand parameters, one epoch."""

import sys
from pathlib import Path

import pytest

from ecg_transformers.training import finetune

sys.path.append(str(Path(__file__).resolve().parent.parent / "corpora"))
import mimic_iv_ecg_layout as mimic
import mit_bih_layout as mit_bih


@pytest.fixture
def run(make_arguments, tiny_overrides, shared_data):
    def run(corpus, folder, *options):
        return finetune(
            *make_arguments("--corpus", corpus, "--data_dir", shared_data / folder, "--num_train_epochs", 1, *options)
        )

    return run


def test_ludb(run):
    result = run("ludb", "ludb", "--task", "hypertrophy", "--min_positives", 8)
    assert result.label_names == ["Left atrial hypertrophy", "Left ventricular hypertrophy"]
    assert result.test["num_records"] == 3


def test_brugada_huca(run, tmp_path):
    result = run("brugada_huca", "brugada-huca", "--task", "all")
    # One of the nine subjects has the syndrome, so nothing can be ranked among those held out.
    assert result.label_names == ["brugada", "basal_pattern", "sudden_death"] and result.test is None
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_mimic_iv_ecg(run, tmp_path):
    folder = tmp_path / "mimic"
    # Two records of each of twelve patients; some lack the RR interval.
    studies = [
        (
            10_000_000 + n // 2,
            40_000_000 + n,
            ("Sinus rhythm",),
            (29999 if n % 5 == 0 else 600 + 20 * n, *mimic.NUMBERS[1:]),
        )
        for n in range(24)
    ]
    mimic.write_tables(folder, studies)
    for subject, study, *_ in studies:
        mimic.write_record(folder, subject, study)
    options = ("--corpus_options", 'measurements=["rr_interval_ms", "t_end_ms"]')
    result = run("mimic_iv_ecg", folder, "--task", "measurements", *options)
    assert result.label_names == ["rr_interval_ms", "t_end_ms"]
    assert result.problem_type == "regression" and result.test["num_records"] == 4


@pytest.mark.parametrize(("task", "seconds"), [("beats", 10), ("single_beat", 2)])
def test_mit_bih(run, tmp_path, task, seconds):
    folder = tmp_path / "mit-bih"
    for name, symbols in {"101": "N", "106": "NNNNV", "109": "NNNNNNNV", "100": "NNNNNNNNV", "103": "N"}.items():
        mit_bih.write_record(folder, name, mit_bih.regular_beats(seconds=30, symbols=symbols), seconds=30)
    options = ("--corpus_options", f"seconds={seconds}", "skip_missing=true", "validation_share=0.3")
    result = run("mit_bih", folder, "--task", task, *options)
    assert result.label_names == ["N", "S", "V", "F", "Q"]
    assert result.test["num_records"] > 0 and "V" in result.test["per_label"]


def test_a_real_record_of_mit_bih(run):
    """One subject cannot be split, so there is training alone."""
    result = run("mit_bih", "mit-bih", "--corpus_options", "skip_missing=true", "split=[1, 0, 0]", "seconds=60")
    assert result.test is None and len(result.learning_curve) <= 1
