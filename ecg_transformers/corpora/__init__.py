"""Corpora: one file each, one registry, the same columns.

Every corpus is a `datasets.DatasetDict` with the splits `train`, `validation` and `test` and the columns `ecg` (the
`ECG` feature: decoded to an `ECGRecord` when read), `labels`, `record_id`, `patient_id`, `age` (years), `sex`
(`"female"`, `"male"` or null), `fold` (or null) and `report`. The columns stay the same from corpus to corpus; what a
corpus does not know is null. Marked waves and beats are further columns (`delineation` of `ludb`, see
`sample_classes`).

The feature of `labels` says what kind of task the corpus poses, so names and kind survive `save_to_disk`, Parquet and
the Hub: a struct of float32 is multi-label (1, 0, or null for unknown), a `ClassLabel` single-label, a lone float or a
struct whose values are marked with `id="regression"` is regression.

Importing this module is cheap: corpora and the `ECG` feature are imported on first use.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

    from .ecg_feature import ECG
    from .leakage import check_leakage
    from .leakage_report import LeakageReport
    from .quality_column import add_quality, filter_by_quality
    from .record_packing import pack_records

__all__ = [
    "ECG",
    "LeakageReport",
    "add_quality",
    "check_leakage",
    "filter_by_quality",
    "label_names",
    "list_corpora",
    "load_corpus",
    "pack_records",
    "problem_type",
    "register_corpus",
]

# corpus name -> module that registers it; a new corpus is one file and one row.
_CORPUS_MODULES = {
    "brugada_huca": ".brugada_huca",
    "challenge": ".challenge",
    "challenge2025": ".challenge2025",
    **dict.fromkeys(
        (
            "challenge_ptbxl",
            "chapman_shaoxing",
            "cpsc2018",
            "cpsc_extra",
            "georgia",
            "incart",
            "ningbo",
            "ptb",
        ),
        ".challenge_parts",
    ),
    "code15": ".code15",
    "code_test": ".code_test",
    "folder": ".folder",
    "ludb": ".ludb",
    "mimic_iv_ecg": ".mimic_iv_ecg",
    "mit_bih": ".mit_bih",
    "ptbdb": ".ptbdb",
    "ptbxl": ".ptbxl",
    "sph": ".sph",
    "synthetic": ".synthetic",
    "table": ".table",
}

# public name -> module that defines it, with an import of `datasets`
_LAZY_NAMES = {
    "ECG": ".ecg_feature",
    "add_quality": ".quality_column",
    "filter_by_quality": ".quality_column",
    "pack_records": ".record_packing",
    "check_leakage": ".leakage",
    "LeakageReport": ".leakage_report",
}

# Corpora that are whatever lies in a folder.
_OWN_DATA = ("folder", "table")

_CorpusFunction = TypeVar("_CorpusFunction", bound=Callable[..., Any])
_registered: dict[str, Callable[..., Any]] = {}


def register_corpus(name: str) -> Callable[[_CorpusFunction], _CorpusFunction]:
    """Decorate a function that builds a corpus, so that `load_corpus(name)` finds it.

    The function returns a `datasets.DatasetDict` with the columns that this module's docstring lists. Its keyword
    arguments are the options of the corpus; one called `data_dir` receives the folder with the files. One called
    `streaming` is for functions that make a stream by themselves; `load_corpus` does it for the others.

    Args:
        name (`str`): the name of the corpus.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: if another function is registered under that name.

    Example:
        ```python
        @register_corpus("ward_7")
        def load_ward_7(data_dir, *, min_age=18):
            ...
        ```
    """

    def decorate(function: _CorpusFunction) -> _CorpusFunction:
        known = _registered.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            function.__module__,
            function.__qualname__,
        ):
            raise ValueError(
                f"The corpus name {name!r} belongs to {known.__module__}.{known.__qualname__}; choose another name."
            )
        _registered[name] = function
        return function

    return decorate


def list_corpora() -> list[str]:
    """Return the names that `load_corpus` knows, sorted."""
    return sorted({*_CORPUS_MODULES, *_registered})


def corpus_function(name: str) -> Callable[..., Any]:
    """Return the function that builds a registered corpus.

    Raises:
        ValueError: if no corpus has that name; the message lists those that exist.
    """
    if name not in _registered and name in _CORPUS_MODULES:
        importlib.import_module(_CORPUS_MODULES[name], __name__)
    if name not in _registered:
        raise ValueError(f"Unknown corpus {name!r}; known corpora: {', '.join(list_corpora())}.")
    return _registered[name]


def load_corpus(
    name: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    streaming: bool = False,
    min_quality: float | None = None,
    **options: Any,
) -> DatasetDict | IterableDatasetDict:
    """Load a corpus by name, from a folder that was saved, or from the Hub.

    Args:
        name (`str` or path): the name of a registered corpus (see `list_corpora`); otherwise a folder, as for the
            corpus `folder`: one written by `save_to_disk`, one with Parquet files that have an `ECG` column, or any
            mix of ECG files; otherwise the id of a data set on the Hub (`owner/name`).
        data_dir (`str` or path, *optional*): the folder with the corpus' files, where the corpus needs one.
        streaming (`bool`, *optional*, defaults to `False`): give rows one after the other instead of by index; the
            splits, their order and the features stay the same. Tables are read as ever, Parquet files and data sets
            on the Hub as they come. A data set on the Hub must have all three splits.
        min_quality (`float`, *optional*): from 0 to 1: the share of leads without an issue that a record must have,
            see `filter_by_quality`. By default all records are kept.
        **options: options of the corpus, see the docstring of its function. For the Hub: `split` (three fractions)
            and `seed`, used for the splits that are missing, and whatever `datasets.load_dataset` takes.

    Returns:
        `datasets.DatasetDict`, or with `streaming` `datasets.IterableDatasetDict`: the splits `train`, `validation`
        and `test` (a corpus published for testing only has `test` alone); the columns are those that the module
        docstring lists.

    Raises:
        ValueError: for an unknown corpus or option, or files that do not form the corpus; the message names what is
            known or expected.

    Example:
        ```python
        corpus = load_corpus("ptbxl", data_dir="ptb-xl", task="superclass")
        corpus["train"][0]["ecg"]  # ECGRecord
        stream = load_corpus("code15", data_dir="code-15", streaming=True)
        next(iter(stream["train"]))["ecg"]
        ```
    """
    if min_quality is None:
        return _named(_load(name, data_dir, streaming, options), name)
    from .quality_column import check_min_quality, filter_by_quality

    check_min_quality(min_quality)
    return _named(filter_by_quality(_load(name, data_dir, streaming, options), min_quality), name)


def _load(
    name: str | os.PathLike, data_dir: str | os.PathLike | None, streaming: bool, options: dict[str, Any]
) -> DatasetDict | IterableDatasetDict:
    if str(name) not in list_corpora():
        if not os.path.isdir(name):
            from .saved_corpus import load_hub_corpus

            return load_hub_corpus(name, data_dir, streaming=streaming, **options)
        if data_dir is not None:
            raise ValueError(f"{name} is a folder itself and takes no `data_dir`; got {data_dir}.")
        name, data_dir = "folder", name

    function = corpus_function(str(name))
    parameters = inspect.signature(function).parameters
    if data_dir is not None:
        options["data_dir"] = data_dir
    streams_itself = "streaming" in parameters
    if streams_itself:
        options["streaming"] = streaming
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [option for option in options if option not in parameters and not takes_any]
    if unknown:
        raise ValueError(
            f"The corpus {str(name)!r} has no option {', '.join(map(repr, unknown))}; its options: "
            f"{', '.join(parameters)}."
        )
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        and parameter.name not in options
    ]
    if required:
        raise ValueError(
            f"The corpus {str(name)!r} needs {', '.join(f'{option}=' for option in required)}, for example "
            f"load_corpus({str(name)!r}, {required[0]}=...)."
        )
    corpus = function(**options)
    return _as_stream(corpus) if streaming and not streams_itself else corpus


def _named(corpus: Any, name: str | os.PathLike) -> Any:
    """Note a corpus' name: numbers of patients and records mean the same in two of one name (`check_leakage`)."""
    if str(name) in list_corpora() and name not in _OWN_DATA and hasattr(corpus, "values"):
        for split in corpus.values():
            split.info.dataset_name = str(name)
    return corpus


def _as_stream(corpus: DatasetDict) -> IterableDatasetDict:
    from .streaming import stream_corpus

    return stream_corpus(corpus)


def label_names(features_or_dataset: Any) -> list[str]:
    """Return the names of the labels of a corpus, in the order of the model's outputs.

    Args:
        features_or_dataset (`datasets.Features`, `Dataset`, `IterableDataset` or `DatasetDict`): a corpus or its
            features.

    Returns:
        `list[str]`: one name per output; `["labels"]` for regression of a single value.

    Raises:
        ValueError: if there is no usable `labels` column.
    """
    from .columns import label_names_of

    return label_names_of(features_or_dataset)


def problem_type(features_or_dataset: Any) -> str:
    """Return the kind of task that the `labels` column poses, as `config.problem_type` spells it.

    Args:
        features_or_dataset (`datasets.Features`, `Dataset`, `IterableDataset` or `DatasetDict`): a corpus or its
            features.

    Returns:
        `str`: `"multi_label_classification"`, `"single_label_classification"` or `"regression"`.

    Raises:
        ValueError: if there is no usable `labels` column.
    """
    from .columns import problem_type_of

    return problem_type_of(features_or_dataset)


def __getattr__(name: str) -> Any:
    """Import what needs `datasets` on first use."""
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
