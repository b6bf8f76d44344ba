"""What a run says before and after training."""

from __future__ import annotations

from typing import Any

from .arguments import EvaluationArguments, FinetuningArguments
from .building import BuiltModel
from .scoring import Scores, report
from .task import ClassificationTask


def opening_report(
    task: ClassificationTask, built: BuiltModel, frozen: list[str], arguments: FinetuningArguments
) -> str:
    """Tell corpus, model, what learns, and the settings that matter most."""
    parameters = sum(parameter.numel() for parameter in built.model.parameters())
    trainable = sum(parameter.numel() for parameter in built.model.parameters() if parameter.requires_grad)
    sizes = ", ".join(
        f"{facts['records']} {split}" + (f" ({facts['patients']} patients)" if "patients" in facts else "")
        for split, facts in task.facts["splits"].items()
    )
    count = len(task.label_names)
    noun = "value" if task.problem_type == "regression" else "label"
    lines = [
        f"Corpus {task.facts['name']}: {sizes} records, {count} {noun}{'' if count == 1 else 's'} "
        f"({task.problem_type}).",
        f"Model {built.model.config.model_type}, {parameters / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M of them "
        "learn, " + (f"from {built.base_model}." if built.base_model else "from scratch."),
    ]
    fraction = task.facts["label_fraction"]
    if fraction is not None:
        kept = task.facts["splits"]["train"]
        patients = ""
        if "of_patients" in fraction and "patients" in kept:
            patients = f" ({kept['patients']} of {fraction['of_patients']} patients)"
        lines.insert(
            1,
            f"Of the training records {kept['records']} of {fraction['of_records']}{patients} are kept: "
            f"--label_fraction {fraction['fraction']:g} of the labelled ones, in whole patients.",
        )
    if frozen:
        lines.append(f"Frozen: {', '.join(frozen)}.")
    lines.append(
        f"Learning rate {arguments.learning_rate:g}, batch {arguments.train_batch_size * arguments.world_size}, "
        f"device {arguments.device}; best checkpoint by {arguments.metric_for_best_model}."
    )
    return "\n".join(lines)


def closing_report(
    result: Any, scores: dict[str, Any], untrained: dict[str, Scores], arguments: EvaluationArguments
) -> str:
    """Tell the scores of the test records and where the model is."""
    lines = []
    if "test" in scores:
        lines += ["", "Test records:", report(scores["test"], arguments)]
        if "test" in untrained:
            key = "mae" if result.problem_type == "regression" else "macro_auroc"
            values = [found["test"].results[key] for found in (scores, untrained)]
            shown = ["–" if value is None else f"{value:.3f}" for value in values]
            lines.append(f"{key.replace('_', ' ')}: trained {shown[0]}, untrained {shown[1]}.")
    lines.append(f"Saved in {result.output_dir} after {result.seconds['total']:.0f} s.")
    return "\n".join(lines)
