"""Each part of the PhysioNet/CinC Challenges 2020 and 2021 as a corpus alone: `load_challenge` of one source.

Names: `cpsc2018`, `cpsc_extra`, `georgia`, `chapman_shaoxing`, `ningbo`, `ptb`, `incart`, and `challenge_ptbxl` for
the copy of PTB-XL (`ptbxl` is PTB-XL itself). Labels, SNOMED CT codes and options are those of the corpus `challenge`.
All parts are WFDB headers with MATLAB v4 signals under CC BY 4.0.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

from . import register_corpus
from .challenge import load_challenge

if TYPE_CHECKING:
    from datasets import DatasetDict

# Corpus name -> name of the part in `load_challenge`, and what it is. Counts are those of the Challenge of 2021.
_PARTS = {
    "cpsc2018": (
        "cpsc2018",
        "CPSC 2018: 6,877 records of 6 to 144 s at 500 Hz, 9 diagnoses (Liu et al., J Med Imaging Health Inform "
        "8:1368, 2018). Records have the names of the original release (`A0001`).",
    ),
    "cpsc_extra": (
        "cpsc_extra",
        "CPSC-Extra: 3,453 records of 5 to over 60 s at 500 Hz that CPSC 2018 did not use (`Q0001`).",
    ),
    "georgia": (
        "georgia",
        "The Georgia 12-lead ECG database (G12EC): 10,344 records of mostly 10 s at 500 Hz (`E00001`).",
    ),
    "chapman_shaoxing": (
        "chapman_shaoxing",
        "Chapman-Shaoxing: 10,247 records of 10 s at 500 Hz, one per patient (Zheng et al., Sci Data 7:48, 2020). In "
        "the Challenge's copy and in ecg-arrhythmia on PhysioNet they are JS00001 to JS10646, by which they are found "
        "where no folder is called after them; the original release (10,646 records, CSV) has other names.",
    ),
    "ningbo": (
        "ningbo",
        "Ningbo First Hospital: 34,905 records of 10 s at 500 Hz, one per patient (Zheng et al., Sci Rep 10:2898, "
        "2020), JS10647 to JS45551, in the Challenge's copy or in ecg-arrhythmia on PhysioNet.",
    ),
    "ptb": (
        "ptb",
        "The Challenge's copy of the PTB diagnostic database: 516 records of 32 to 120 s at 1000 Hz, 12 leads "
        "(`S0001`). The copy does not tell patients, of whom many have several records; the original, with patients "
        "and the Frank leads, is the corpus `ptbdb`. Not seen on the real files.",
    ),
    "incart": (
        "incart",
        "The Challenge's copy of the St Petersburg INCART database: 74 records of 30 minutes at 257 Hz (`I0001`), of "
        "32 patients, whom the copy does not tell. It clips amplitudes of the original, which reach 30 mV. Not seen "
        "on the real files.",
    ),
    "challenge_ptbxl": (
        "ptb-xl",
        "The Challenge's copy of PTB-XL: 21,837 records of 10 s at 500 Hz, HRnnnnn for PTB-XL's record nnnnn. With "
        "`ptbxl_database` the records have their patients and, `keep_ptbxl_folds` being `True` here unless given, "
        "PTB-XL's recommended splits; without it they are divided record by record, and a patient may be in two "
        "splits.",
    ),
}


def _register(name: str, source: str, description: str) -> None:
    whole = inspect.signature(load_challenge)
    options = [
        parameter for option, parameter in whole.parameters.items() if option not in ("sources", "exclude_sources")
    ]

    def load_part(data_dir: str | os.PathLike, **options: Any) -> DatasetDict:
        if name == "challenge_ptbxl":
            options.setdefault("keep_ptbxl_folds", options.get("ptbxl_database") is not None)
        return load_challenge(data_dir, sources=[source], **options)

    load_part.__name__ = load_part.__qualname__ = f"load_{name}"
    load_part.__signature__ = whole.replace(parameters=options)
    load_part.__doc__ = f"""{description}

    Args:
        data_dir (`str` or path): the folder of the part, or one above it; other parts in it are left alone.
        **options: those of `load_challenge`, but for `sources` and `exclude_sources`.

    Returns:
        `datasets.DatasetDict`: see `load_challenge`.

    Raises:
        ValueError: see `load_challenge`; also if `data_dir` holds no record of this part.
    """
    register_corpus(name)(load_part)


for _name, (_source, _description) in _PARTS.items():
    _register(_name, _source, _description)
