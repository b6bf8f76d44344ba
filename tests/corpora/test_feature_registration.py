import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, Features

from ecg_transformers.corpora.ecg_feature import ECG
from ecg_transformers.record import ECGRecord

REGISTER = "from ecg_transformers.corpora.feature_registration import register_ecg_feature; register_ecg_feature()"
LOAD = "record = load_from_disk(folder)[0]['ecg']; print(type(record).__name__, record.sampling_rate)"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "corpus"
    record = ECGRecord(np.zeros((1, 100)), 250, ["II"])
    Dataset.from_dict({"ecg": [record]}, features=Features({"ecg": ECG()})).save_to_disk(str(folder))
    return folder


def run(*lines):
    program = "\n".join(("import sys", *lines))
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()


@pytest.mark.parametrize(
    "order",
    [
        (REGISTER, "from datasets import load_from_disk"),
        ("from datasets import load_from_disk", REGISTER),
        (REGISTER, REGISTER, "import datasets.features", "from datasets import load_from_disk", REGISTER),
        ("import ecg_transformers.corpora.ecg_feature", "from datasets import load_from_disk"),
        (REGISTER, "from ecg_transformers.corpora import ECG", "from datasets import load_from_disk"),
        ("import ecg_transformers", "from datasets import load_from_disk"),
        ("from datasets import load_from_disk", "import ecg_transformers"),
    ],
    ids=["before", "after", "twice", "feature", "corpora", "package_before", "package_after"],
)
def test_saved_corpus_opens_in_either_order(order, saved):
    assert run(f"folder = {str(saved)!r}", *order, LOAD) == ["ECGRecord 250"]


def test_datasets_is_not_imported_and_the_hook_leaves_no_trace():
    count = "print(sum(type(finder).__module__.startswith('ecg_transformers') for finder in sys.meta_path))"
    lines = run(
        "import importlib, importlib.util",
        REGISTER,
        "print('datasets' in sys.modules)",
        count,
        # What transformers does to see whether a library is installed.
        "print(importlib.util.find_spec('datasets') is not None, 'datasets' in sys.modules)",
        "import datasets",
        count,
        "print(type(datasets.__loader__).__name__, type(datasets.__spec__.loader).__name__)",
        "print('ECG' in datasets.features.features._FEATURE_TYPES)",
        "importlib.reload(datasets)",
        "import transformers.pipelines",
        count,
    )
    assert lines == ["False", "1", "True False", "1", "SourceFileLoader SourceFileLoader", "True", "0"]


def test_a_failing_import_of_datasets_stays_its_own(tmp_path):
    (tmp_path / "datasets.py").write_text("raise RuntimeError('broken installation')")
    lines = run(
        REGISTER,
        f"sys.path.insert(0, {str(tmp_path)!r})",
        "try:",
        "    import datasets",
        "except RuntimeError as error:",
        "    print(error, 'datasets' in sys.modules)",
    )
    assert lines == ["broken installation False"]


def test_importing_corpora_is_cheap():
    lines = run(
        "from transformers import HubertModel",
        "before = set(sys.modules)",
        "import ecg_transformers.corpora as corpora",
        "print('ptbxl' in corpora.list_corpora(), {'datasets', 'pandas', 'wfdb'} & (set(sys.modules) - before))",
    )
    assert lines == ["True set()"]
