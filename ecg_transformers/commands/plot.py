"""The command `plot`: the sheet of a recording, or what a model's preprocessing makes of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import CommandError, add_file_options, read_options

if TYPE_CHECKING:
    from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

# Options of the sheet, by the arguments of `plot_ecg`
_OF_SHEET = {
    "layout": "layout",
    "start": "start_seconds",
    "speed": "speed_mm_per_second",
    "gain": "gain_mm_per_mv",
}


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    plot = commands.add_parser(
        "plot",
        help="draw a 12-lead sheet, or the steps of a model's preprocessing",
        description="Draw a recording as the standard sheet: 25 mm/s, 10 mm/mV, 3 x 4 leads and a rhythm strip. With "
        "--recipe, draw one lead before and after each step of an input recipe instead.",
    )
    plot.add_argument("input", help="ECG file")
    plot.add_argument(
        "--output", "-o", help="picture to write: .png, .pdf or .svg (default: RECORD.png in the current folder)"
    )
    plot.add_argument("--model", help="also predict with this model and print the result on the sheet")
    plot.add_argument(
        "--layout",
        choices=["3x4+1", "3x4", "6x2+1", "6x2", "12x1+1", "12x1"],
        help="(default: 3x4+1)",
    )
    plot.add_argument("--speed", type=float, metavar="MM_PER_SECOND", help="paper speed (default: 25)")
    plot.add_argument("--gain", type=float, metavar="MM_PER_MV", help="amplitude scale (default: 10)")
    plot.add_argument("--start", type=float, metavar="SECONDS", help="where the sheet begins (default: 0)")
    plot.add_argument("--title", help="heading (default: what the file tells)")
    recipe = plot.add_argument_group("steps of a recipe, instead of the sheet")
    recipe.add_argument("--recipe", help="a recipe's name, such as hubert_ecg, or the folder or Hub id of a model")
    recipe.add_argument("--lead", help="which lead of the model is drawn (default: II)")
    add_file_options(plot)
    plot.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers plot`."""
    from ..readers import read_ecg
    from ..visualization import plot_ecg

    if arguments.recipe and arguments.model:
        raise CommandError(
            "--recipe draws the steps of a recipe, --model a prediction on the sheet; give one of them."
        )
    _check_together(arguments)
    record = read_ecg(arguments.input, **read_options(arguments))
    output = arguments.output or f"{Path(arguments.input).stem}.png"
    if arguments.recipe:
        from ..recipe_visualization import plot_recipe

        extractor = _find_recipe(arguments.recipe)
        plot_recipe(record, extractor, output, lead=arguments.lead or "II", title=arguments.title)
        print(output)
        return 0
    predictions = None
    if arguments.model:
        from ..inference import ECGInference

        inference = ECGInference.from_pretrained(arguments.model)
        values, _, leads = inference([record])
        if not leads.any():
            raise CommandError(f"{arguments.input}: no lead carries a signal, so there is nothing to predict from.")
        named = zip(inference.label_names, values[0].tolist(), inference.thresholds.tolist(), strict=True)
        predictions = sorted(named, key=lambda item: -item[1])
    plot_ecg(
        record,
        output,
        title=arguments.title,
        predictions=predictions,
        **{_OF_SHEET[name]: value for name, value in _given(arguments, _OF_SHEET).items()},
    )
    print(output)
    return 0


def _check_together(arguments: argparse.Namespace) -> None:
    """Refuse what would be ignored."""
    if arguments.recipe and _given(arguments, _OF_SHEET):
        named = ", ".join(f"--{name}" for name in _given(arguments, _OF_SHEET))
        raise CommandError(f"{named} is for the sheet, which --recipe does not draw; leave out one of them.")
    if arguments.lead is not None and not arguments.recipe:
        raise CommandError("--lead is for --recipe NAME; the sheet shows all leads.")


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _find_recipe(name: str) -> ECGFeatureExtractor:
    from ..feature_extraction.ecg_recipes import RECIPES
    from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

    if name in RECIPES:
        return ECGFeatureExtractor(**RECIPES[name])
    try:
        return ECGFeatureExtractor.from_pretrained(name)
    except OSError as error:
        raise CommandError(
            f"--recipe {name} is neither a recipe ({', '.join(sorted(RECIPES))}) nor a model: {error}"
        ) from error
