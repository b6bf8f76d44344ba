"""What every training run has in common: its output folder, how it ends, and how its arguments are read."""

import difflib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, TrainingArguments


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` for runs that guard their folder, can be interrupted, and read raw columns."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the model, its card and checkpoints. Required."}
    )
    weight_decay: float = field(
        default=0.01, metadata={"help": "AdamW weight decay; none on biases, norms and gains."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate on validation: no, steps, epoch."})
    save_strategy: str | None = field(
        default=None,
        metadata={"help": "When to write a checkpoint: no, steps, epoch, best. Default: as --eval_strategy."},
    )
    logging_strategy: str | None = field(
        default=None,
        metadata={"help": "When to log the training loss: no, steps, epoch. Default: as --eval_strategy."},
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept; the best is always kept."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "Finish with the checkpoint that was best on validation, not with the last."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start over in a folder that holds another run; its results are removed."}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "'last', or the path of a checkpoint of an interrupted run with the same arguments."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "Early stopping and other callbacks with a state go on where the checkpoint left them."},
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Threads of torch in each process on the CPU. Default: torch's, usually one per core; a small "
            "model, or a "
            "machine with other work to do, is often faster with 1 and --dataloader_num_workers 1."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the raw columns."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is required: the folder for the model and its results.")
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"--cpu_threads must be at least 1; got {self.cpu_threads}.")
        if self.remove_unused_columns:
            raise ValueError("--remove_unused_columns must stay False: the collator reads the raw columns.")
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if self.save_strategy is None:
            self.save_strategy = self.eval_strategy if self.eval_strategy != "no" else "epoch"
            if self.save_strategy == "steps" and self.eval_steps:
                self.save_steps = self.eval_steps
        if self.logging_strategy is None:
            self.logging_strategy = self.eval_strategy if self.eval_strategy != "no" else "epoch"
            if self.logging_strategy == "steps" and self.eval_steps:
                self.logging_steps = self.eval_steps
        check_hardware_flags(self)
        if not _has_accelerator():
            # bf16 on the CPU needs it said.
            self.use_cpu = True
        if self.use_cpu:
            self.dataloader_pin_memory = False
        super().__post_init__()


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def check_hardware_flags(arguments: TrainingArguments) -> None:
    """Refuse flags that need a GPU where there is none.

    Raises:
        ValueError: naming the flag and what to use instead.
    """
    has_accelerator = _has_accelerator()
    if has_accelerator and not arguments.use_cpu:
        return
    place = "with --use_cpu" if has_accelerator else "on a machine without a GPU"
    for flag, remedy in (("fp16", "use --bf16 or neither"), ("fp16_full_eval", "use --bf16_full_eval or neither")):
        if getattr(arguments, flag):
            raise ValueError(f"--{flag} does not work {place}; {remedy}.")
    if arguments.tf32:
        raise ValueError(f"--tf32 does not work {place}; leave it out.")
    if arguments.optim in ("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit"):
        raise ValueError(f"--optim {arguments.optim} does not work {place}; use adamw_torch.")


def parse_value(text: str) -> Any:
    """Read a value as JSON (`3`, `0.5`, `true`, `[1, 2]`, `"x"`), else take it as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def parse_overrides(text: str | None) -> dict[str, Any]:
    """Read `key=value,key=value` or a JSON object; commas inside brackets belong to the value.

    Raises:
        ValueError: if an entry is not key=value.
    """
    if not text:
        return {}
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--config_overrides is no valid JSON object: {error}.") from error
    entries, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            entries.append("")
        else:
            entries[-1] += character
    overrides = {}
    for entry in entries:
        key, separator, value = entry.strip().partition("=")
        if not separator or not key:
            raise ValueError(f"--config_overrides takes key=value,key=value; got {entry!r}.")
        overrides[key.strip()] = parse_value(value.strip())
    return overrides


def parse_arguments(
    kinds: Sequence[type],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    usage: str = "%(prog)s [run.yaml] --output_dir FOLDER [options]",
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Any, ...]:
    """Read the arguments of a run into dataclasses.

    Args:
        kinds (sequence of types): dataclasses; of a training run the last one is a `RunArguments`.
        arguments (sequence of `str`, *optional*): the command line without the program's name; `sys.argv` by default.
            If the first one is the path of a `.json`, `.yaml` or `.yml` file, its entries (names as on the command
            line, without dashes) are the defaults that the other arguments change.
        description (`str`, *optional*): what `--help` says first.
        usage (`str`, *optional*): the line above it.
        presets (mapping, *optional*): name -> settings by argument; `--preset NAME` makes them the defaults, which a
            file and the other arguments change.

    Returns:
        `tuple`: an instance of each kind.

    Raises:
        ValueError: if the file cannot be read, it or the command line names unknown arguments, or a value is out of
            range.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    preset, arguments = _take_preset(arguments, presets or {})
    parser = HfArgumentParser(
        kinds,
        usage=usage,
        description=description,
    )
    _group_help(parser, kinds)
    parser.set_defaults(**preset)
    if arguments and Path(arguments[0]).suffix in (".json", ".yaml", ".yml"):
        settings = _read_settings(Path(arguments.pop(0)))
        known = {entry.name for kind in kinds for entry in fields(kind)}
        unknown = sorted(set(settings) - known)
        if unknown:
            shown = ", ".join(_with_suggestion(name, known) for name in unknown)
            raise ValueError(f"Unknown names in the file of arguments: {shown}; --help lists those known.")
        parser.set_defaults(**settings)
    *found, rest = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if rest:
        raise ValueError(_unknown_arguments(rest, parser))
    return tuple(found)


def _with_suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _unknown_arguments(rest: Sequence[str], parser: HfArgumentParser) -> str:
    known = {name for action in parser._actions for name in action.option_strings if "-" not in name[2:]}
    options = [text.partition("=")[0].replace("-", "_") for text in rest if text.startswith("--")]
    if not options:
        return f"Not understood: {' '.join(rest)}. Options start with --; a file of arguments stands first."
    shown = [_with_suggestion("--" + name[2:], known) for name in options]
    return f"Unknown option {', '.join(shown)}; --help lists those known."


def _take_preset(
    arguments: list[str], presets: Mapping[str, Mapping[str, Any]]
) -> tuple[Mapping[str, Any], list[str]]:
    """Return the settings of `--preset NAME`, and the other arguments."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    known, rest = parser.parse_known_args(arguments)
    if not presets or known.preset is None:
        return {}, arguments
    if known.preset not in presets:
        raise ValueError(f"--preset {known.preset}: there are {', '.join(presets)}.")
    return presets[known.preset], rest


def _group_help(parser: HfArgumentParser, kinds: Sequence[type]) -> None:
    """Show the options in groups, ours first; `HfArgumentParser` lists hundreds in a row."""
    inherited = {entry.name for entry in fields(TrainingArguments)}
    general = parser._optionals._group_actions
    for kind in kinds:
        names = _own_names(kind)
        group = parser.add_argument_group((kind.__doc__ or "").strip().splitlines()[0].rstrip("."))
        for action in list(general):
            if action.dest in names:
                general.remove(action)
                group._group_actions.append(action)
    rest = parser.add_argument_group("Other arguments of transformers' Trainer")
    for action in [action for action in general if action.dest in inherited]:
        general.remove(action)
        rest._group_actions.append(action)


def _own_names(kind: type) -> set[str]:
    """Return the fields of a dataclass that transformers does not declare, or whose default is changed here."""
    if not issubclass(kind, TrainingArguments):
        return {entry.name for entry in fields(kind)}
    ours = kind.__mro__[: kind.__mro__.index(TrainingArguments)]
    return {name for part in ours for name in part.__annotations__}


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"There is no file {path} with arguments.")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no valid JSON: {error}.") from error
    else:
        import yaml

        try:
            settings = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no valid YAML: {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold one object with arguments by name; it holds a {type(settings).__name__}.")
    # YAML reads 1e-5 (without a dot) as text, so text goes through the type of the argument again in argparse.
    return settings
