"""The card of a run, rendered from `run.json`: no figure is typed by hand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import written_atomically
from .card_parts import label_table, python_literal, run_metadata, show_learning_curve, table_cell, use_without_package
from .learning_curve import PICTURE, draw_learning_curve
from .licences import describe_licence

TEMPLATE = Path(__file__).with_name("model_card_template.md")
PRETRAINING_TEMPLATE = Path(__file__).with_name("pretraining_card_template.md")

LIMITS = {
    "synthetic": "The records are synthetic: drawn by a parametric generator, cleaner and more typical than any "
    "patient's. The model shows that the way works; its figures say nothing about real ECGs.",
}
_LONGEST_CURVE = 12


def write_card(
    folder: str | Path, licence: str | None = None, *, location: str | None = None, with_code: bool = False
) -> Path:
    """Render the card of a run and write it as `README.md` into its folder, with the picture of its learning curve.

    Args:
        folder (`str` or `Path`): output folder of a training run, with `run.json`.
        licence (`str`, *optional*): Hub identifier of the licence of the weights, such as `"apache-2.0"`. Default:
            that of the weights which the run started from, else `"unknown"`.
        location (`str`, *optional*): Hub id under which the card is published. Default: the name of the folder.
        with_code (`bool`, *optional*, defaults to `False`): the folder brings its code; tell how to use it.

    Returns:
        `Path`: the card.

    Raises:
        ValueError: if the folder holds no readable `run.json`.
    """
    folder = Path(folder)
    with lacking_is_told(folder / "run.json"):
        draw_learning_curve(_read_run(folder)[0], folder / PICTURE)
    text = render_card(folder, licence, location=location, with_code=with_code)
    with written_atomically(folder / "README.md") as file:
        file.write(text)
    return folder / "README.md"


def render_card(
    folder: str | Path, licence: str | None = None, *, location: str | None = None, with_code: bool = False
) -> str:
    """Return the text of a run's card; arguments and errors as `write_card`."""
    with lacking_is_told(Path(folder) / "run.json"):
        return _render_card(Path(folder), licence, location, with_code)


@contextlib.contextmanager
def lacking_is_told(path: Path) -> Iterator[None]:
    """Turn what reading a `run.json` without some fact raises into a `ValueError` that names it."""
    from jinja2 import UndefinedError

    try:
        yield
    except (KeyError, AttributeError, TypeError, UndefinedError) as error:
        lacking = repr(error.args[0]) if isinstance(error, KeyError) and error.args else f"a fact ({error})"
        raise ValueError(
            f"{path.name} lacks {lacking}, or it is not what is expected: it was written by another version of this "
            "package, or changed. Give a card of your own with card=, without run.json in the folder."
        ) from error


def _render_card(folder: Path, licence: str | None, location: str | None, with_code: bool) -> str:
    from jinja2 import Environment, StrictUndefined

    run, config, preprocessor = _read_run(folder)
    location = location or folder.resolve().name
    name = location.rpartition("/")[2]
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    pretrained = run.get("kind") == "pretraining"
    auto_class = "AutoModel" if pretrained else "AutoModelForSequenceClassification"
    values = {
        "card_data": run_metadata(name, run, licence, with_code),
        "name": " ".join(name.split()),
        "location": python_literal(location),
        "leads": f"{len(preprocessor['lead_names'])} leads",
        "outside_usage": use_without_package(location, run["model"]["model_type"], auto_class, preprocessor)
        if with_code
        else None,
        "curve_picture": show_learning_curve(PICTURE) if (folder / PICTURE).is_file() else None,
        "licence_note": describe_licence(run, licence),
        "environment": describe_environment(run),
    }
    if pretrained:
        from .pretraining_card import pretraining_values

        template = environment.from_string(PRETRAINING_TEMPLATE.read_text(encoding="utf-8"))
        pictures = [name for name in run["model"].get("pictures", []) if (folder / name).is_file()]
        return template.render({**values, **pretraining_values(location, run, pictures)})
    test = run["metrics"].get("test")
    metric = run["training"]["metric_for_best_model"]
    values |= {
        "model": {**run["model"], "window_seconds": number(run["model"]["window_seconds"])},
        "base_model": run["model"]["base_model"],
        "output": _output(run),
        "usage_note": _usage_note(run, config),
        "label_table": label_table(run),
        "test_table": _table(test) if test else None,
        "evaluation_note": _evaluation_note(config, test),
        "fairness": _fairness(test),
        "comparison": _comparison(run),
        "corpus_note": _corpus_note(run),
        "splits": run["corpus"]["splits"],
        "training_note": _training_note(run),
        "curve": _curve(run["learning_curve"], metric),
        "curve_metric": metric.replace("_", " "),
        "limits": LIMITS.get(run["corpus"]["name"], _LIMITS_OF_ANY) + _never_learnt(run),
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)


def _read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read what a card is made of: `run.json`, `config.json`, `preprocessor_config.json`."""
    try:
        run, config, preprocessor = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("run.json", "config.json", "preprocessor_config.json")
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} is no folder of a finished run: {error}. Cards are rendered from the run.json, config.json and "
            "preprocessor_config.json that the training scripts write."
        ) from error
    return run, config, preprocessor


_LIMITS_OF_ANY = (
    "The figures hold for records like those of the test split. Other devices, populations and lead placements can "
    "differ, so score the model on your own records first. Where a table cell is empty, a label could not be scored."
)


def _never_learnt(run: dict[str, Any]) -> str:
    """Name the labels that no training record had."""
    if run["corpus"]["problem_type"] != "multi_label_classification":
        return ""
    counts = run["corpus"]["splits"]["train"]["labels"]
    absent = [name for name, count in counts.items() if not count["positives"]]
    if not absent:
        return ""
    return f" Without a positive training record, and so never predicted: {', '.join(absent)}."


def _output(run: dict[str, Any]) -> str:
    names = run["corpus"]["label_names"]
    kind = {
        "multi_label_classification": f"the probabilities of {len(names)} labels",
        "single_label_classification": f"the probabilities of {len(names)} classes",
        "regression": f"{len(names)} value{'s' if len(names) > 1 else ''}",
    }[run["corpus"]["problem_type"]]
    shown = ", ".join(names[:30]) + (", …" if len(names) > 30 else "")
    return f"{kind}: {shown}"


def _usage_note(run: dict[str, Any], config: dict[str, Any]) -> str:
    if run["corpus"]["problem_type"] == "regression":
        return "`logits` are the values."
    if run["corpus"]["problem_type"] == "single_label_classification":
        return "`logits.softmax(-1)` are the probabilities; `config.id2label` names them."
    note = "`logits.sigmoid()` are the probabilities; `config.id2label` names them."
    if config.get("thresholds"):
        note += (
            " `config.thresholds` holds a threshold per label, chosen on the validation records "
            f"({config['threshold_criterion']}, windows: {config.get('eval_windows', 'all')}, combined by "
            f"{config.get('window_aggregation', 'mean')}); `ecg-transformers predict` uses the same."
        )
    return note


def _table(test: dict[str, Any]) -> str:
    from ..evaluation import format_report

    intervals = {"auroc": test["intervals"]["auroc"]} if "auroc" in test.get("intervals", {}) else None
    return format_report(_with_missing(test), intervals and {"auroc": _with_missing(intervals["auroc"])}, "markdown")


def _fairness(test: dict[str, Any] | None) -> str | None:
    from ..evaluation import format_fairness

    return format_fairness(test["fairness"], "markdown") if test and "fairness" in test else None


def _with_missing(value: Any) -> Any:
    """Bring JSON's null back to NaN, which the report shows as missing."""
    if isinstance(value, dict):
        return {key: _with_missing(entry) for key, entry in value.items()}
    return float("nan") if value is None else value


def _evaluation_note(config: dict[str, Any], test: dict[str, Any] | None) -> str:
    windows = "all windows of a record" if config.get("eval_windows") == "all" else "the first window of a record"
    note = f"{windows}, {config.get('window_aggregation', 'mean')} of their outputs"
    if test and test.get("intervals"):
        note += "; in brackets 95 % bootstrap intervals over patients"
    return note


def _comparison(run: dict[str, Any]) -> str | None:
    test, untrained = run["metrics"].get("test"), run["metrics"].get("untrained_test")
    if not test or not untrained:
        return None
    key = "mae" if run["corpus"]["problem_type"] == "regression" else "macro_auroc"
    return (
        f"The same model without training, on the same records: {key.replace('_', ' ')} {number(untrained[key])} "
        f"(trained: {number(test[key])})."
    )


def _corpus_note(run: dict[str, Any]) -> str:
    corpus = run["corpus"]
    task = f", task {corpus['task']}" if corpus["task"] else ""
    known = all("patients" in facts for facts in corpus["splits"].values() if facts["records"])
    patients = "No patient is in more than one split." if known else "Patients are not known: it is split by record."
    return f"Corpus `{table_cell(corpus['name'])}`{task}. {patients}{_fraction_note(corpus)}"


def _fraction_note(corpus: dict[str, Any]) -> str:
    """Tell of a run on few labels how many there were."""
    fraction = corpus.get("label_fraction")
    if not fraction:
        return ""
    patients = f" of {fraction['of_patients']} patients" if "of_patients" in fraction else ""
    return (
        f" Trained on {number(100 * fraction['fraction'])} % of the labelled training records, drawn by patient with "
        f"seed {fraction['seed']} from {fraction['of_records']} records{patients}."
    )


def _training_note(run: dict[str, Any]) -> str:
    training, model = run["training"], run["model"]
    parts = [
        f"{model['parameters']:,} parameters, {model['trainable_parameters']:,} of them trained",
        f"{training['steps']} steps ({number(training['epochs'], 2)} epochs) of {training['batch_size']} records",
        f"{training['optimizer']}, learning rate {training['learning_rate']:g}, weight decay "
        f"{training['weight_decay']:g}, warm-up {training['warmup']:g}, schedule {training['schedule']}",
        f"seed {training['seed']}",
    ]
    if training["best_step"]:
        parts.append(f"best step {training['best_step']} by validation {training['metric_for_best_model']}")
    seconds = run["seconds"].get("training")
    if seconds is not None:
        parts.append(
            f"{seconds:.0f} s on {run['environment']['device']}, {run['environment']['processes']} process(es)"
        )
    return "; ".join(parts) + "."


def _curve(entries: list[dict[str, Any]], metric: str) -> list[dict[str, str]]:
    """Return the learning curve as a table."""
    return [
        {
            "epoch": number(entry.get("epoch"), 2),
            "training_loss": number(entry.get("training_loss")),
            "validation_loss": number(entry.get("validation_loss")),
            "metric": number(entry.get("validation_loss" if metric == "loss" else metric)),
        }
        for entry in thin_out(entries)
    ]


def thin_out(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Thin a learning curve out to a length that can be read."""
    if len(entries) <= _LONGEST_CURVE:
        return entries
    step = (len(entries) - 1) / (_LONGEST_CURVE - 1)
    return [entries[round(position * step)] for position in range(_LONGEST_CURVE)]


def describe_environment(run: dict[str, Any]) -> str:
    """Return versions, and the arguments that differ from their defaults."""
    versions = ", ".join(f"{name} {version}" for name, version in run["environment"]["versions"].items())
    arguments = {
        key: value for group in run["arguments"].values() for key, value in group.items() if key != "output_dir"
    }
    listed = "\n".join(f"- `{key}`: {value}" for key, value in sorted(arguments.items()))
    return f"{versions}.\n\nArguments that differ from the defaults:\n\n{listed}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number without trailing zeros; a dash for what is missing."""
    return "–" if value is None else f"{value:.{digits}f}".rstrip("0").rstrip(".")
