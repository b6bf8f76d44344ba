import subprocess
import sys

import pytest

import ecg_transformers as et
from ecg_transformers.post_import import call_after_import


def test_every_public_name_exists_and_is_documented():
    for name in et.__all__:
        if name not in ("__version__", "STANDARD_LEADS"):
            assert getattr(et, name).__doc__, name
    assert set(et.__all__) <= set(dir(et))
    with pytest.raises(AttributeError, match="public names"):
        _ = et.no_such_name


def test_what_waits_for_a_module_that_is_there_is_called_at_once():
    calls = []
    call_after_import("json", lambda: calls.append("json"))
    assert calls == ["json"]


def test_importing_loads_no_library_that_it_does_not_need():
    """The limit of 0.3 s over transformers' HubertModel is kept by loading nothing heavy; timing itself is no test."""
    program = (
        "import sys; from transformers import HubertModel; before = set(sys.modules); import ecg_transformers; "
        "new = set(sys.modules) - before; print(*sorted({name.split('.')[0] for name in new}))\n"
        "print('transformers.pipelines' in sys.modules, 'ecg_transformers.pipelines' in sys.modules)\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "print(*[task for task in PIPELINE_REGISTRY.get_supported_tasks() if 'ecg' in task])\n"
        "print(sum(type(finder).__module__.startswith('ecg_transformers') for finder in sys.meta_path))"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    output = lines[0].split()
    # The tasks become known when transformers' pipelines are imported, and not before; the hook for `datasets` stays
    tasks = "ecg-classification ecg-feature-extraction zero-shot-ecg-classification"
    assert lines[1:] == ["False False", tasks, "1"]
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
