"""What `hub_upload.py` does: assemble a clean folder, check it in a fresh process, and send it in one commit."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..commands.messages import in_options
from ..commands.options import option_names
from .folder_assembly import AssembledFolder, PublishingError, assemble_folder
from .folder_check import FolderToCheck, check_folders
from .hub_repository import Target, check_repo_id, find_target, upload

DESCRIPTION = """Publish a model folder on the Hugging Face Hub: the output folder of a finished run, or a
converted checkpoint.

A clean folder is assembled in a temporary place: weights (safetensors), config.json,
preprocessor_config.json, the tokenizer where there is one, a card rendered from the run,
a note on the licence, run.json and metrics.json. Checkpoints, optimizer states, logs and
the predictions of test records stay behind. It is then opened in a fresh process with the
Hub switched off and run on two synthetic records, where it must give what FOLDER gives
here. Only then is anything sent, in one commit; FOLDER itself is left as it is.

With --include_code the folder brings the code of model and preprocessing, and opens with
trust_remote_code=True where this package is not installed; the check runs where it cannot
be imported. People who have the package get its own classes, without a question.
"""

EPILOG = """examples:
  python hub_upload.py outputs/my-ptbxl --repo_id me/hubert-ecg-ptbxl --private
  python hub_upload.py outputs/my-ptbxl --repo_id me/hubert-ecg-ptbxl --dry_run
  python hub_upload.py outputs/my-ptbxl --repo_id me/hubert-ecg-ptbxl --include_code \\
      --licence cc-by-nc-4.0
  python hub_upload.py deepecg-sl-77 --dry_run --include_code --output published

The token is taken from the environment (HF_TOKEN) or from `hf auth login`; it is never
shown. Exit codes: 0 published or, with --dry_run, fit to be; 2 an argument, the folder,
its check or the Hub says no, and nothing was published unless the message says so; 130
after Ctrl-C.
"""


@dataclass
class PublishArguments:
    """What is published, where, and how.

    Args:
        folder (`Path`): the model folder.
        repo_id (`str`, *optional*): `name` or `namespace/name`; needed unless `dry_run`.
        private (`bool`): a repository that is created is private.
        revision (`str`, *optional*): branch to commit to.
        create_pr (`bool`): open a pull request instead of committing.
        commit_message (`str`, *optional*): of the commit.
        include_code (`bool`): add the code.
        licence (`str`, *optional*): Hub identifier of that of the weights.
        card (`Path`, *optional*): a card of one's own.
        dry_run (`bool`): do everything but upload.
        output (`Path`, *optional*): where a dry run leaves the folder.
    """

    folder: Path
    repo_id: str | None = None
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    commit_message: str | None = None
    include_code: bool = False
    licence: str | None = None
    card: Path | None = None
    dry_run: bool = False
    output: Path | None = None


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `hub_upload.py`."""
    parser = argparse.ArgumentParser(
        "hub_upload.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="output folder of a run, or converted checkpoint")
    parser.add_argument("--repo_id", metavar="ME/NAME", help="repository; it is created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create it such that others cannot see it")
    parser.add_argument("--revision", help="branch to commit to, which must exist (default: the main one)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request, also on somebody else's")
    parser.add_argument("--commit_message", metavar="TEXT", help="default: which package uploaded what")
    parser.add_argument("--include_code", action="store_true", help="make it work for people without this package")
    parser.add_argument(
        "--licence",
        help="of the weights, as the Hub calls it, e.g. apache-2.0 (default: what the folder's card says, else that "
        "of the weights which training started from)",
    )
    parser.add_argument("--card", metavar="FILE", type=Path, help="use this card instead of rendering one")
    parser.add_argument("--dry_run", action="store_true", help="do everything but upload; needs no network, no token")
    parser.add_argument("--output", metavar="DIR", type=Path, help="with --dry_run: leave the assembled folder there")
    return parser


def parse_publish_arguments(arguments: Sequence[str] | None = None) -> tuple[PublishArguments]:
    """Read the command line of `hub_upload.py`.

    Raises:
        ValueError: if arguments do not go together.
    """
    found = PublishArguments(**vars(build_parser().parse_args(arguments)))
    if found.repo_id is None and not found.dry_run:
        raise ValueError("--repo_id is required: where to publish, such as me/my-model. --dry_run does without.")
    if found.repo_id is not None:
        check_repo_id(found.repo_id)
    if found.output is not None and not found.dry_run:
        raise ValueError("--output leaves the folder of a --dry_run; without that nothing is left behind.")
    if found.commit_message is not None and not found.commit_message.strip():
        raise ValueError("--commit_message is empty; leave it out or write one.")
    return (found,)


def publish(arguments: PublishArguments) -> str | None:
    """Assemble, check and upload; tell what happens.

    Args:
        arguments ([`PublishArguments`]): what, where and how.

    Returns:
        `str`: address of the commit or pull request; `None` after a dry run.

    Raises:
        PublishingError: if anything speaks against it; nothing was published then, unless the message says so, and no
            folder is left.
        FolderCheckError: if the folder does not open elsewhere as it does here.
    """
    try:
        return _publish(arguments)
    except ValueError as error:
        raise type(error)(_in_options(str(error))) from error


def _publish(arguments: PublishArguments) -> str | None:
    _check_output(arguments.output)
    target = None
    with tempfile.TemporaryDirectory(prefix="ecg-transformers-publish-") as place:
        path = Path(place) / "published"
        path.mkdir()
        if not arguments.dry_run:
            # First, since the card names the repository with its namespace
            target = find_target(
                arguments.repo_id,
                revision=arguments.revision,
                create_pr=arguments.create_pr,
                private=arguments.private,
            )
        folder = assemble_folder(
            arguments.folder,
            path,
            repo_id=arguments.repo_id if target is None else target.repo_id,
            licence=arguments.licence,
            with_code=arguments.include_code,
            card=arguments.card,
        )
        _tell_folder(folder)
        _check(folder)
        if target is None:
            if arguments.output is not None:
                _leave(path, arguments.output)
                print(f"The folder is {arguments.output}.")
            print("Nothing was uploaded: this was a dry run.")
            return None
        _tell_target(target, folder)
        message = arguments.commit_message or f"Upload {folder.entry.model_type} with ecg_transformers {__version__}"
        address = upload(path, target, message)
    print(address)
    return address


def _check_output(output: Path | None) -> None:
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise PublishingError(f"--output {output} is there already and holds something; name a new folder.")


def _leave(folder: Path, output: Path) -> None:
    """Copy a folder in one step: beside, then renamed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".part", dir=output.parent) as place:
        shutil.copytree(folder, Path(place) / "folder")
        (Path(place) / "folder").replace(output)


def _tell_folder(folder: AssembledFolder) -> None:
    sizes = folder.files
    width = max(map(len, sizes))
    print(f"{folder.source} ({folder.entry.model_type}, {folder.auto_class}, licence {folder.licence}):")
    for name, size in sizes.items():
        print(f"  {name:<{width}}  {size:>13,} bytes")
    print(f"  {'in all':<{width}}  {sum(sizes.values()):>13,} bytes")
    if folder.left_out:
        print(f"Left out: {', '.join(folder.left_out)}.")
    for note in folder.notes:
        print(f"note: {_in_options(note)}", file=sys.stderr)


def _check(folder: AssembledFolder) -> None:
    # Whoever loads a classifier can also take its encoder
    auto_classes = list(dict.fromkeys([folder.auto_class, "AutoModel"]))
    where = "in a fresh process without ecg_transformers" if folder.with_code else "in a fresh process"
    print(f"Checking it {where} ...", flush=True)
    count = check_folders(
        [FolderToCheck(folder.source, folder.path, auto_classes, folder.window_seconds)], folder.with_code
    )
    print(f"It opens there through {' and '.join(auto_classes)} and gives the same {count:,} values as here.")


def _tell_target(target: Target, folder: AssembledFolder) -> None:
    kind = "new, private" if target.private else "new, public"
    what = "a pull request to" if target.create_pr else "one commit to"
    branch = f", revision {target.revision}" if target.revision else ""
    print(f"Uploading by {what} {target.repo_id} ({'existing' if target.exists else kind}{branch}) ...", flush=True)
    replaced = target.replaced(set(folder.files))
    if replaced:
        print(f"The commit removes files of an earlier upload: {', '.join(replaced)}.")


def _in_options(message: str) -> str:
    return in_options(message, option_names(build_parser()))
