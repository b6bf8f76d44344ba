"""The thresholds with which DeepECG's text classifier turns reports, English and French, into the 77 findings."""

from __future__ import annotations

import functools
import json
from pathlib import Path


@functools.cache
def _facts() -> dict[str, dict[str, float]]:
    return json.loads(Path(__file__).with_name("deepecg_reports.json").read_text(encoding="utf-8"))


def report_thresholds() -> dict[str, float]:
    """Return the published threshold of each finding, by name; the order of the classifier's outputs is not published.

    Example:
        >>> report_thresholds()["Left bundle branch block"]
        0.31
    """
    return dict(_facts()["labels"])
