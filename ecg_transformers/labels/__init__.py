"""Labels of published models as data: names in the order of the outputs, groups, decision thresholds."""

from ..lazy_names import lazy_names

_PUBLIC_NAMES = {
    name: ".deepecg"
    for name in (
        "biomarker_thresholds",
        "deepecg_labels",
        "deepecg_thresholds",
        "describe_deepecg_head",
        "group_thresholds",
        "label_groups",
        "threshold_sources",
    )
}
_PUBLIC_NAMES["report_thresholds"] = ".deepecg_reports"

__all__ = sorted(_PUBLIC_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
