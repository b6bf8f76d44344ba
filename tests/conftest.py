import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    return Path(os.environ.get("ECG_TRANSFORMERS_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = shared_folder() / "data"
    if not folder.is_dir():
        pytest.skip("the corpus of real ECG files (shared/data) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = shared_folder() / "golden"
    if not folder.is_dir():
        pytest.skip("the recorded reference numbers (shared/golden) are not on this machine")
    return folder
