"""The records of a corpus that have a report, for pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from ..corpora.table import table_columns
from .arguments import CorpusArguments
from .data import count_records
from .negative_sampling import unique_texts
from .pretraining_run import digest_records
from .reports import clean_reports
from .task import SPLITS, column_of, corpus_facts, load_splits, without_labels

logger = logging.get_logger(__name__)


@dataclass
class ReportCorpus:
    """A corpus whose records all have a report.

    Args:
        splits (`dict`): `datasets.Dataset` by split, without records that have no report.
        reports (`dict[str, list[str]]`): their cleaned reports.
        facts (`dict`): JSON: name, and per split how many records, patients and different reports there are and how
            many records were left out.
    """

    splits: dict[str, Any]
    reports: dict[str, list[str]]
    facts: dict[str, Any]

    def has_records(self, split: str) -> bool:
        """Whether a split exists and is not empty."""
        return split in self.splits and len(self.splits[split]) > 0

    def digest(self, split: str) -> str:
        """Return a fingerprint of a split's records and reports."""
        return digest_records(self.splits[split], self.reports[split])


def load_report_corpus(arguments: CorpusArguments) -> ReportCorpus:
    """Load a corpus and leave out what has no report.

    Args:
        arguments (`CorpusArguments`): which corpus.

    Returns:
        `ReportCorpus`: its splits train and validation.

    Raises:
        ValueError: if the corpus cannot be loaded, or no training record has a report.
    """
    corpus = load_splits(without_labels(arguments))
    if arguments.corpus == "table":
        # Of a table the corpus has a column `report` in any case.
        for path in (arguments.train_csv, arguments.validation_csv):
            if path is not None:
                _check_report_column(f"The table {path}", table_columns(path, arguments.data_dir))
    result = ReportCorpus({}, {}, corpus_facts(arguments, {}))
    name = result.facts["name"]
    for split in SPLITS[:2]:
        if split not in corpus:
            continue
        dataset = corpus[split]
        _check_report_column(f"The corpus {name!r}", dataset.column_names)
        reports = clean_reports(column_of(dataset, "report"))
        kept = [row for row, report in enumerate(reports) if report is not None]
        missing = len(reports) - len(kept)
        if missing:
            # Without any training record the error below says so.
            if kept or split != "train":
                logger.warning(f"{missing} of {len(reports)} {split} records have no report and are left out.")
            dataset = dataset.select(kept)
        result.splits[split] = dataset
        result.reports[split] = [reports[row] for row in kept]
        result.facts["splits"][split] = {
            **count_records(dataset),
            "different_reports": len(unique_texts(result.reports[split])),
            "without_report": missing,
        }
    if not result.has_records("train"):
        raise ValueError(
            f"No training record of the corpus {name!r} has a report, so there is nothing to learn from. Reports are "
            "in the column `report`; the corpora ptbxl and synthetic have them, and a table with a column 'report'."
        )
    return result


def _check_report_column(where: str, columns: list[str]) -> None:
    if "report" in columns:
        return
    similar = [column for column in columns if column.lower() in ("report", "reports")]
    hint = f" Rename the column {similar[0]!r} to 'report'." if similar else ""
    raise ValueError(
        f"{where} has no column `report`; it has {', '.join(columns)}.{hint} Pretraining on ECGs and reports needs "
        "one: the corpora ptbxl and synthetic have it, and a table with a column 'report'."
    )
