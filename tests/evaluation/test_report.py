import numpy as np
import pytest

from ecg_transformers.evaluation import (
    bootstrap_intervals,
    format_report,
    multilabel_metrics,
    regression_metrics,
    singlelabel_metrics,
)

TARGETS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, np.nan, 0]])
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.1], [0.7, 0.9, 0.6], [0.6, 0.1, 0.1]])
NAMES = ["AF", "713427006|59118001", "LBBB"]


def test_text_table_is_aligned_and_says_what_is_missing():
    intervals = bootstrap_intervals(TARGETS, PROBABILITIES, "auroc", label_names=NAMES, num_resamples=50)
    lines = format_report(multilabel_metrics(TARGETS, PROBABILITIES, NAMES), intervals).split("\n")
    header, rows = lines[0], lines[2:5]
    assert "AUROC [95% CI]" in header
    assert "Unknown" in header
    assert "1.000 [1.000, 1.000]" in rows[0]
    assert rows[2].split()[:4] == ["LBBB", "0", "4", "0"]
    assert rows[2].count("–") == 5
    assert {len(row) for row in rows} == {len(header)}
    assert lines[6].startswith("Macro mean")
    assert lines[-1] == "Labels with one class only in these data, without scores: 1 of 3 (LBBB)."


def test_markdown_escapes_joined_codes():
    table = format_report(multilabel_metrics(TARGETS, PROBABILITIES, NAMES), style="markdown").split("\n")
    columns = table[0].count("|")
    assert r"713427006\|59118001" in table[3]
    assert all(line.replace(r"\|", "").count("|") == columns for line in table[:6])
    assert table[1].startswith("| --- | ---: |")


def test_single_label_and_regression_tables():
    single = format_report(singlelabel_metrics([0, 1], [[0.8, 0.2], [0.4, 0.6]], ["normal", "abnormal"]))
    assert "Accuracy 1.000, balanced accuracy 1.000, 2 records." in single
    assert "Threshold" not in single
    numbers = format_report(regression_metrics([[1.0, 2.0], [2.0, 2.0]], [[1, 2], [3, 2]], ["age", "rate"]))
    assert "MAE" in numbers
    assert numbers.split("\n")[-1].startswith("Mean")


def test_bad_input_is_explained():
    results = multilabel_metrics(TARGETS, PROBABILITIES, NAMES)
    with pytest.raises(ValueError, match="'text' or 'markdown'"):
        format_report(results, style="html")
    with pytest.raises(ValueError, match="results hold no"):
        format_report(results, metrics=["accuracy"])
    with pytest.raises(ValueError, match="pass what"):
        format_report({"loss": 0.1})
    with pytest.raises(ValueError, match="same `label_names`"):
        format_report(results, bootstrap_intervals(TARGETS, PROBABILITIES, "f1", num_resamples=5))
