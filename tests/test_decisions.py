import json
from types import SimpleNamespace

import numpy as np
import pytest

from ecg_transformers.decisions import resolve_thresholds, summarize_groups

NAMES = ["AF", "LBBB", "sinus rhythm"]


def config(**fields):
    return SimpleNamespace(**fields)


STORED = config(thresholds={"LBBB": 0.1, "AF": 0.3, "sinus rhythm": None}, threshold_criterion="youden")


def test_stored_thresholds_are_taken_by_name():
    for choice in (None, "stored", "youden"):
        np.testing.assert_array_equal(resolve_thresholds(choice, NAMES, STORED), [0.3, 0.1, np.nan])
    partly = config(thresholds={"LBBB": 0.1})
    np.testing.assert_array_equal(resolve_thresholds(None, NAMES, partly), [np.nan, 0.1, np.nan])


def test_without_stored_thresholds_it_is_one_half_or_an_error():
    for bare in (config(), config(thresholds=None)):
        assert resolve_thresholds(None, NAMES, bare).tolist() == [0.5] * 3
        for choice in ("stored", "youden"):
            with pytest.raises(ValueError, match=f"no stored thresholds.*{choice}"):
                resolve_thresholds(choice, NAMES, bare)


def test_another_criterion_is_an_error():
    with pytest.raises(ValueError, match="chosen by 'youden', not 'f1'"):
        resolve_thresholds("f1", NAMES, STORED)
    with pytest.raises(ValueError, match="chosen by None, not 'youden'"):
        resolve_thresholds("youden", NAMES, config(thresholds={"AF": 0.3}))


def test_numbers_files_and_mappings(tmp_path):
    for choice in (0.25, "0.25", ".25"):
        assert resolve_thresholds(choice, NAMES, STORED).tolist() == [0.25] * 3
    assert resolve_thresholds(1, NAMES, config()).tolist() == [1.0] * 3
    values = {"sinus rhythm": 0.9, "AF": None}
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps(values))
    for choice in (values, path, str(path)):
        np.testing.assert_array_equal(resolve_thresholds(choice, NAMES, STORED), [np.nan, np.nan, 0.9])


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True, "0.5", [0.5]])
def test_what_is_no_probability_is_an_error(value):
    with pytest.raises(ValueError, match="between 0 and 1|chosen by"):
        resolve_thresholds({"AF": value}, NAMES, STORED)
    if isinstance(value, float):
        with pytest.raises(ValueError, match="between 0 and 1"):
            resolve_thresholds(str(value), NAMES, STORED)


def test_files_that_do_not_fit(tmp_path):
    for content, message in (("{", "no JSON"), ("[0.5]", "no object"), ('{"VT": 0.5}', r"\['VT'\].*does not predict")):
        path = tmp_path / "thresholds.json"
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            resolve_thresholds(str(path), NAMES, STORED)
    with pytest.raises(ValueError, match="absent.json cannot be read"):
        resolve_thresholds(str(tmp_path / "absent.json"), NAMES, STORED)


def test_groups_have_their_largest_probability_and_what_is_present():
    groups = {"rhythm": ["AF", "sinus rhythm"], "conduction": ["LBBB"], "both": ["LBBB", "AF"]}
    found = summarize_groups(groups, {"AF": 0.2, "LBBB": 0.7, "sinus rhythm": 0.4}, ["LBBB", "sinus rhythm"])
    assert found == {
        "rhythm": {"probability": 0.4, "labels": ["sinus rhythm"]},
        "conduction": {"probability": 0.7, "labels": ["LBBB"]},
        "both": {"probability": 0.7, "labels": ["LBBB"]},
    }
