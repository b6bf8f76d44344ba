"""Values of a wrong kind for the options of the corpora, as they come from a command line."""

import inspect
import re

import pytest

from ecg_transformers.cli import main
from ecg_transformers.corpora import corpus_function, load_corpus

CORPORA = ("brugada_huca", "challenge", "challenge2025", "code15", "code_test", "incart", "ludb", "mimic_iv_ecg")
CORPORA += ("mit_bih", "ptbdb", "ptbxl", "sph", "synthetic")

# Read together with the records they are about
LATER = ("exclude_records", "exclude_patients", "exclude_ptbxl_folds")


# By what the signature says
WRONG = {
    "bool": ("no", 1, None),
    "int": ("many", 2.5, True, -1, None),
    "float": ("long", float("nan"), True, -1, None),
}
WRONG_SPLITS = (3, "abc", (0.5, 0.5), (0.5, 0.3, 0.3), (0.5, 0.5, "x"), None)


@pytest.mark.parametrize("name", CORPORA)
def test_options_of_a_wrong_kind_are_named(name, tmp_path):
    options = {"data_dir": tmp_path} if name != "synthetic" else {}
    parameters = inspect.signature(corpus_function(name)).parameters
    for option in sorted(set(parameters) - set(LATER)):
        named = f"`{option}`" if option != "split" else "`split`|shares of the splits are 3 numbers"
        for value in WRONG_SPLITS if option == "split" else WRONG.get(parameters[option].annotation, (3,)):
            with pytest.raises(ValueError, match=named) as caught:
                load_corpus(name, **{**options, option: value})
            assert re.search(rf"got .*{re.escape(repr(value))}", str(caught.value)), caught.value


@pytest.mark.parametrize("option", LATER)
@pytest.mark.parametrize("value", [3, None])
def test_records_to_leave_out_are_a_list(shared_data, option, value):
    options = {"ptbxl_database": shared_data / "ptb-xl" / "ptbxl_database.csv"}
    with pytest.raises(ValueError, match=f"`{option}` is a list.*got {value}"):
        load_corpus("challenge", shared_data / "challenge-2021", **options, **{option: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("split=3", "numbers from 0 to 1 that add up to 1, such as [0.7, 0.15, 0.15]; got 3"),
        ("split=[0.5,0.5]", "The shares of the splits are 3 numbers"),
        ("split=abc", "got 'abc'"),
        ("min_seconds=ten", "a number of seconds of at least 0; got 'ten'"),
    ],
)
def test_the_command_tells_them_without_a_traceback(tmp_path, capsys, given, message):
    assert main(["check-leakage", f"challenge={tmp_path}", "--one_options", given])
    assert message in capsys.readouterr().err
