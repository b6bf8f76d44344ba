import subprocess
import sys

import pytest

import ecg_transformers as et


def test_every_public_name_exists_and_is_documented():
    for name in et.__all__:
        if name not in ("__version__", "STANDARD_LEADS"):
            assert getattr(et, name).__doc__, name
    assert set(et.__all__) <= set(dir(et))
    with pytest.raises(AttributeError, match="public names"):
        _ = et.no_such_name


def test_importing_loads_no_library_that_it_does_not_need():
    """The limit of 0.3 s over transformers' HubertModel is kept by loading nothing heavy; timing itself is no test."""
    program = (
        "import sys; from transformers import HubertModel; before = set(sys.modules); import ecg_transformers; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    heavy = {
        "datasets",
        "evaluate",
        "wfdb",
        "pandas",
        "sklearn",
        "matplotlib",
        "h5py",
        "pyarrow",
        "accelerate",
        "scipy",
    }
    assert not heavy & set(output), output
