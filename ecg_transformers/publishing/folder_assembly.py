"""A clean folder for the Hub, made of what a run or a conversion left: what belongs there, and nothing else."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..feature_extraction.recipe_validation import validate_recipe
from ..private_values import absolute_paths, without_private_values
from ..registration import MODELS, ModelEntry
from .card_lint import LICENCES, lint_card
from .card_parts import LIBRARY, PIPELINE_TAG, tags_of, use_without_package
from .converted_card import is_converted_original, render_family_card, with_metadata
from .custom_code import include_code, set_auto_map
from .learning_curve import PICTURE
from .licences import LICENCE_OF_PUBLISHED_WEIGHTS, licence_of, licence_of_card, licence_of_folder
from .model_card import lacking_is_told, render_card, write_card
from .notice import APACHE_LICENCE, NOTICE, render_notice, write_apache_licence

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES += ("added_tokens.json",)
_RUN_FILES = ("run.json", "metrics.json")
# What the folder of a run holds while it is going on, and a checkpoint of it
_START_FILE, _CHECKPOINT_FILES = "started_with.json", ("trainer_state.json", "optimizer.pt", "scheduler.pt")
_PICKLED = re.compile(r".*\.(bin|pt|pth|ckpt|pkl)")
# Of the session that saved a configuration, or of code that was beside it
_OF_SESSION = ("_name_or_path", "custom_pipelines")
_LICENCE_FILE = re.compile(rf"(?!{APACHE_LICENCE}$)LICEN[CS]E.*")


class PublishingError(ValueError):
    """A folder cannot be published; the message says why, and what to do."""


@dataclass
class AssembledFolder:
    """What was put together.

    Args:
        path (`Path`): the clean folder.
        source (`Path`): what it was made of.
        entry ([`ModelEntry`]): the model.
        auto_class (`str`): of transformers, that opens the weights.
        licence (`str`): Hub identifier, or `"unknown"`.
        with_code (`bool`): whether the code lies beside.
        window_seconds (`float`, *optional*): of the recipe.
        left_out (`list[str]`): names in the source that were not taken.
        notes (`list[str]`): what the user should know before others see it.
    """

    path: Path
    source: Path
    entry: ModelEntry
    auto_class: str
    licence: str
    with_code: bool
    window_seconds: float | None = None
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, int]:
        """Names and sizes in bytes of the files, sorted."""
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in found}


def assemble_folder(
    source: str | Path,
    destination: str | Path,
    *,
    repo_id: str | None = None,
    licence: str | None = None,
    with_code: bool = False,
    card: str | Path | None = None,
) -> AssembledFolder:
    """Put together what is published of a model folder.

    Args:
        source (`str` or `Path`): output folder of a finished run, a converted checkpoint, or another model folder of
            this package; it is left as it is.
        destination (`str` or `Path`): an empty folder.
        repo_id (`str`, *optional*): Hub id, which the card's examples then use.
        licence (`str`, *optional*): Hub identifier of the licence of the weights. Default: that of `card`, of the
            folder's card, of the weights that a run started from, or of the authors' weights; else `"unknown"`.
        with_code (`bool`, *optional*, defaults to `False`): add the code of model and preprocessing.
        card (`str` or `Path`, *optional*): a card to use instead of the one that is rendered.

    Returns:
        [`AssembledFolder`]: weights, `config.json`, `preprocessor_config.json`, tokenizer where there is one,
        `README.md` with its pictures, `NOTICE`, of a run `run.json` and `metrics.json`, and with code the files that
        `auto_map` names. Checkpoints, optimizer states, logs and predictions, which name patients, stay behind, and
        so do the places on this machine and the tokens that the record of an older run may hold.

    Raises:
        PublishingError: if the folder is no finished model of this package, a file is missing, or a card of one's own
            names where files lie on this machine.
    """
    source, destination = Path(source), Path(destination)
    config = _read_config(source)
    entry, auto_class = _find_class(source, config)
    _check_finished(source)
    preprocessor = _read_preprocessor(source)
    run = _read_json(source / "run.json") if (source / "run.json").is_file() else None
    with _of_source(source), lacking_is_told(source / "run.json"):
        chosen = _choose_licence(source, entry, run, licence, card)
    window = next((step.get("seconds") for step in preprocessor["recipe"] if step["step"] == "crop"), None)
    folder = AssembledFolder(destination, source, entry, auto_class, chosen, with_code, window)

    names = _weight_files(source)
    names += _tokenizer_files(source, entry, config)
    names += [name for name in _RUN_FILES if (source / name).is_file()]
    names += _licence_files(folder)
    for name in names:
        shutil.copyfile(source / name, destination / name)
    for name in _RUN_FILES:
        if (destination / name).is_file():
            _clean_record(folder, destination / name)
    cleaned = {
        key: without_private_values(value) if isinstance(value, str) else value
        for key, value in config.items()
        if key not in _OF_SESSION
    }
    _write_json(destination / "config.json", cleaned)
    _write_json(destination / "preprocessor_config.json", preprocessor)
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (destination / name).is_file():
            set_auto_map(destination / name, None)
    if with_code:
        include_code(destination, entry)
        write_apache_licence(destination / APACHE_LICENCE)
    with _of_source(source):
        _write_card(folder, run, preprocessor, repo_id, card)
    lacking = [str(finding) for finding in lint_card((destination / "README.md").read_text(encoding="utf-8"))]
    if lacking:
        folder.notes.append("The card is incomplete: " + " ".join(lacking))
    own = (source / NOTICE).read_text(encoding="utf-8") if (source / NOTICE).is_file() else None
    (destination / NOTICE).write_text(render_notice(chosen, with_code, own), encoding="utf-8")
    if chosen == "unknown":
        folder.notes.append(_tell_unknown_licence(source))
    elif licence is None and card is None and run is None and is_converted_original(source):
        folder.notes.append(
            f"The licence {chosen} is assumed, from the weights that the authors of {entry.model_type} published. If "
            "these are others, say which with licence=, and give a card with their own figures with card=."
        )
    folder.left_out = sorted(
        path.name + "/" * path.is_dir() for path in source.iterdir() if not (destination / path.name).exists()
    )
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishingError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise PublishingError(f"{path} holds a {type(content).__name__}, not an object of settings.")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _of_source(source: Path) -> Iterator[None]:
    """Name the folder in what is said of its files."""
    try:
        yield
    except PublishingError:
        raise
    except ValueError as error:
        raise PublishingError(f"{source}: {error}") from error


def _clean_record(folder: AssembledFolder, path: Path) -> None:
    """Take out of a record of a run what runs do not record any more."""
    content = _read_json(path)
    cleaned = without_private_values(content)
    if cleaned != content:
        path.write_text(json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.notes.append(
            f"{path.name} held places on this machine or a token; they are shortened or left out of what is published."
        )


def _check_places(card: Path, text: str) -> None:
    """Make sure that a card does not tell where files lie on this machine."""
    home = re.compile(r"(file://)?(~|/home/|/Users/|/root/|[A-Za-z]:[\\/]Users)")
    found = [
        path for path in absolute_paths(text) if home.match(path) or (path.count("/") > 1 and Path(path).exists())
    ]
    if found:
        raise PublishingError(
            f"The card {card} tells where files lie on this machine: {', '.join(found[:3])}. Write their names alone."
        )


def _read_config(source: Path) -> dict[str, Any]:
    if not source.is_dir():
        is_file = f"{source} is a file" if source.exists() else f"There is no folder {source}"
        raise PublishingError(f"{is_file}; give the output folder of a finished run, or a converted checkpoint.")
    if not (source / "config.json").is_file():
        checkpoints = sorted(path.name for path in source.glob("checkpoint-*"))
        if checkpoints or (source / _START_FILE).is_file():
            raise PublishingError(
                f"{source} holds a run that has not finished: it has no config.json yet. Let it finish, with "
                "--resume_from_checkpoint last if it was interrupted."
            )
        pickles = [path.name for path in source.iterdir() if _PICKLED.fullmatch(path.name)]
        remedy = f" Convert it first: ecg-transformers convert {source} FOLDER." if pickles else ""
        raise PublishingError(f"{source} is no model folder: it has no config.json.{remedy}")
    return _read_json(source / "config.json")


def _find_class(source: Path, config: dict[str, Any]) -> tuple[ModelEntry, str]:
    """Return the model and the Auto class of its weights."""
    entry = next((entry for entry in MODELS if entry.model_type == config.get("model_type")), None)
    if entry is None:
        raise PublishingError(
            f"{source} holds a model of type {config.get('model_type')!r}; this package publishes its own: "
            f"{', '.join(entry.model_type for entry in MODELS)}."
        )
    named = config.get("architectures") or []
    found = [auto_class for auto_class, name in entry.model_classes.items() if named == [name]]
    if not found:
        raise PublishingError(
            f"{source} was not saved by this package: config.json names the architectures {named}, expected one of "
            f"{', '.join(entry.model_classes.values())}. Convert it first: ecg-transformers convert {source} FOLDER."
        )
    return entry, found[0]


def _check_finished(source: Path) -> None:
    if any((source / name).is_file() for name in _CHECKPOINT_FILES):
        raise PublishingError(
            f"{source} is a checkpoint of a run, with the state of its trainer. Give the output folder of the run, "
            "which holds the model of the best step and its figures once the run has finished."
        )
    if (source / _START_FILE).is_file() and not (source / "run.json").is_file():
        raise PublishingError(
            f"{source} holds a run that has not finished: there is no run.json. Let it finish, with "
            "--resume_from_checkpoint last if it was interrupted."
        )


def _weight_files(source: Path) -> list[str]:
    if (source / WEIGHTS).is_file():
        return [WEIGHTS]
    if (source / INDEX).is_file():
        weight_map = _read_json(source / INDEX).get("weight_map") or {}
        parts = sorted(set(weight_map.values()))
        missing = [name for name in parts if Path(name).name != name or not (source / name).is_file()]
        if missing or not parts:
            raise PublishingError(
                f"{source} lacks parts of its weights that {INDEX} names: {', '.join(missing) or 'it names none'}."
            )
        return [INDEX, *parts]
    pickles = sorted(path.name for path in source.iterdir() if _PICKLED.fullmatch(path.name))
    if pickles:
        raise PublishingError(
            f"{source} holds pickled weights only ({', '.join(pickles[:3])}): a pickle can run anything on the "
            f"machine of whoever opens it. Convert it first: ecg-transformers convert {source} FOLDER."
        )
    raise PublishingError(f"{source} has no weights: neither {WEIGHTS} nor {INDEX}.")


def _read_preprocessor(source: Path) -> dict[str, Any]:
    path = source / "preprocessor_config.json"
    if not path.is_file():
        raise PublishingError(
            f"{source} has no preprocessor_config.json, which says what the model expects of its input. Write that "
            f'of its model type: ecg_transformers.ECGFeatureExtractor.from_pretrained("{source}")'
            f'.save_pretrained("{source}"), if the model was trained so.'
        )
    content = _read_json(path)
    if not isinstance(content.get("recipe"), list) or not content.get("lead_names"):
        raise PublishingError(f"{path} holds no recipe of this package: it has no `recipe` or no `lead_names`.")
    try:
        validate_recipe(content["recipe"])
    except ValueError as error:
        raise PublishingError(f"{path}: {error}") from error
    return content


def _licence_files(folder: AssembledFolder) -> list[str]:
    """Name the licences in the source; a link could lead to anything on this machine."""
    found = sorted(path for path in folder.source.iterdir() if _LICENCE_FILE.fullmatch(path.name) and path.is_file())
    links = [path.name for path in found if path.is_symlink()]
    if links:
        folder.notes.append(f"{', '.join(links)}: a link stays behind; put the file itself there to publish it.")
    return [path.name for path in found if not path.is_symlink()]


def _tokenizer_files(source: Path, entry: ModelEntry, config: dict[str, Any]) -> list[str]:
    if entry.processor_class is None or config.get("ecg_only"):
        return []
    found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not {"tokenizer.json", "spiece.model"} & set(found):
        vocab_size = (config.get("text_config") or {}).get("vocab_size")
        raise PublishingError(entry.import_part("processing").describe_missing_tokenizer(source, vocab_size))
    if "tokenizer_config.json" not in found:
        raise PublishingError(f"{source} lacks tokenizer_config.json, which says of what kind its tokenizer is.")
    return found


def _choose_licence(
    source: Path, entry: ModelEntry, run: dict[str, Any] | None, given: str | None, card: str | Path | None
) -> str:
    if given is not None:
        if given not in LICENCES:
            near = difflib.get_close_matches(given.lower(), sorted(LICENCES), n=3)
            raise PublishingError(
                f"The licence {given!r} is none that the Hub knows; expected one such as "
                f"{', '.join(near or ['apache-2.0', 'cc-by-4.0', 'cc-by-nc-4.0', 'mit'])}."
            )
        return given
    named = licence_of_card(card) if card is not None else None
    named = named or licence_of_folder(source)
    if named is not None:
        return named
    if run is not None:
        return licence_of(run, None)
    if (source / "README.md").is_file() and is_converted_original(source):
        return LICENCE_OF_PUBLISHED_WEIGHTS.get(entry.model_type, "unknown")
    return "unknown"


def _tell_unknown_licence(source: Path) -> str:
    if (source / "README.md").is_file() and is_converted_original(source):
        return (
            "The licence of these weights is not known: ask those who trained them whether you may publish them, and "
            "say under which with licence=."
        )
    return (
        "The licence is unknown, so nobody may use the weights: choose one with licence=, such as apache-2.0, within "
        "the terms of the training data and of the weights that training started from."
    )


def _write_card(
    folder: AssembledFolder,
    run: dict[str, Any] | None,
    preprocessor: dict[str, Any],
    repo_id: str | None,
    card: str | Path | None,
) -> None:
    source, destination = folder.source, folder.path
    location = repo_id or source.resolve().name
    own = source / "README.md"
    if card is not None:
        if not Path(card).is_file():
            raise PublishingError(f"There is no card {card}.")
        _write_own_card(folder, Path(card), location, preprocessor)
    elif run is not None:
        of_start = licence_of(run, None)
        if of_start not in ("unknown", folder.licence):
            folder.notes.append(
                f"The weights that training started from are under {of_start}, these are to be under "
                f"{folder.licence}: make sure that you may."
            )
        _take_pictures_of_run(folder, run)
        same = folder.licence == of_start
        write_card(destination, None if same else folder.licence, location=location, with_code=folder.with_code)
        if own.is_file() and not _is_as_rendered(source, own.read_text(encoding="utf-8")):
            folder.notes.append(
                f"{own} was changed since the run wrote it; the card is rendered from the run again. To publish "
                "yours, give it with card=."
            )
    elif own.is_file() and is_converted_original(source):
        text = render_family_card(
            source,
            folder.entry.model_type,
            folder.licence,
            location=location,
            auto_class=folder.auto_class,
            preprocessor=preprocessor,
            with_code=folder.with_code,
            with_text=_compares_texts(folder),
        )
        (destination / "README.md").write_text(text, encoding="utf-8")
    elif own.is_file():
        _write_own_card(folder, own, location, preprocessor)
    else:
        raise PublishingError(
            f"{source} has neither a card nor the run.json to render one from. Write one and give it with card=; "
            "those in model_cards/ of the repository show what belongs in it."
        )


def _is_as_rendered(source: Path, text: str) -> bool:
    """Whether a card is that of the run, which may have got another name since."""
    title = re.search(r"^# (.*)$", text, flags=re.M)
    return text in (render_card(source, location=name) for name in {source.resolve().name, title[1] if title else ""})


def _compares_texts(folder: AssembledFolder) -> bool:
    has_tokenizer = (folder.path / "tokenizer_config.json").is_file()
    return has_tokenizer and folder.auto_class != "AutoModelForSequenceClassification"


def _take_pictures_of_run(folder: AssembledFolder, run: dict[str, Any]) -> None:
    """Take along the learning curve, and of pretraining the reconstruction of a record where that is no patient's."""
    names = [PICTURE] if (folder.source / PICTURE).is_file() else []
    for name in run["model"].get("pictures", [])[-1:]:
        if not (folder.source / name).resolve().is_relative_to(folder.source.resolve()):
            raise PublishingError(f"run.json names the picture {name}, which is not in {folder.source}.")
        if not (folder.source / name).is_file():
            continue
        if run["corpus"]["name"] == "synthetic":
            names.append(name)
        else:
            folder.notes.append(
                f"{name} stays behind: it shows a record of the corpus {run['corpus']['name']}, whose terms may "
                "forbid that. A card of your own, given with card=, can show it."
            )
    for name in names:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder.source / name, folder.path / name)


def _write_own_card(folder: AssembledFolder, path: Path, location: str, preprocessor: dict[str, Any]) -> None:
    """Take a card as it is, and complete its metadata."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(path) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise PublishingError(f"The metadata between the --- lines of {path} is no YAML: {error}.") from error
    text = path.read_text(encoding="utf-8")
    _check_places(path, text)
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)
    with_head = folder.auto_class == "AutoModelForSequenceClassification"
    model_type = folder.entry.model_type
    tags = metadata.get("tags") or []
    if not isinstance(tags, list):
        raise PublishingError(f"The `tags` of {path} are {tags!r}; expected a list.")
    own_tags = tags_of(model_type, with_head, _compares_texts(folder), folder.with_code)
    metadata |= {
        "license": folder.licence,
        "library_name": LIBRARY,
        "pipeline_tag": metadata.get("pipeline_tag") or PIPELINE_TAG,
        "tags": list(dict.fromkeys([*tags, *own_tags])),
    }
    if folder.with_code and "trust_remote_code" not in body:
        usage = use_without_package(location, model_type, folder.auto_class, preprocessor)
        body = f"{body.rstrip()}\n\n{usage}"
    try:
        completed = with_metadata(metadata, body)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PublishingError(f"The metadata of {path} are none that the Hub reads: {error}") from error
    (folder.path / "README.md").write_text(completed, encoding="utf-8")
    _copy_pictures(folder, path.parent)


def _copy_pictures(folder: AssembledFolder, place: Path) -> None:
    """Take along the pictures that the card shows."""
    text = (folder.path / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", name) or (folder.path / name).exists():
            continue
        file = (place / name).resolve()
        if not file.is_relative_to(place.resolve()) or not file.is_file():
            raise PublishingError(f"The card shows the picture {name}, which is not in {place}.")
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder.path / name)
