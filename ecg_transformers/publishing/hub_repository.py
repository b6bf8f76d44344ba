"""The way to the Hub: what can be known before anything is sent, one commit, and what went wrong in words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .folder_assembly import PublishingError

# Files of an earlier upload that would be taken instead of, or together with, those of this one
_REPLACED = re.compile(
    r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|pytorch_model.*|\w+\.py|processor_config\.json|"
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|spiece\.model|"
    r"learning_curve\.png|reconstructions/\w[\w.-]*\.png|run\.json|metrics\.json|LICENSE-CODE"
)
_TOKEN_HELP = (
    "Make a token that may write on {endpoint}/settings/tokens and put it into the environment (HF_TOKEN), or log in "
    "with `hf auth login`."
)


class HubError(PublishingError):
    """The Hub refused, or cannot be reached; nothing was published unless the message says so, and what to do."""


@dataclass
class Target:
    """Where a folder is to go.

    Args:
        repo_id (`str`): with its namespace.
        exists (`bool`): whether the repository is there already.
        revision (`str`, *optional*): branch to commit to; the main one by default.
        create_pr (`bool`): open a pull request instead.
        private (`bool`): of a repository that is created.
        files (`frozenset[str]`): what is in it.
    """

    repo_id: str
    exists: bool
    revision: str | None = None
    create_pr: bool = False
    private: bool = False
    files: frozenset[str] = frozenset()

    def replaced(self, names: set[str]) -> list[str]:
        """Return the files in the repository that go with a commit of files of these names."""
        return sorted(name for name in self.files - names if _REPLACED.fullmatch(name))


def check_repo_id(repo_id: str) -> None:
    """Make sure that a repository can have this name.

    Raises:
        PublishingError: otherwise.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishingError(
            f"--repo_id {repo_id!r}: expected name or namespace/name, of letters, digits, '-', '_' and '.', at most "
            f"96 characters ({error})."
        ) from error


def find_target(
    repo_id: str, *, revision: str | None = None, create_pr: bool = False, private: bool = False
) -> Target:
    """Ask the Hub whether a folder can be published there; changes nothing.

    Args:
        repo_id (`str`): `name` or `namespace/name`.
        revision (`str`, *optional*): branch to commit to, which must exist.
        create_pr (`bool`, *optional*, defaults to `False`): open a pull request.
        private (`bool`, *optional*, defaults to `False`): others must not see it.

    Raises:
        HubError: if the Hub cannot be reached, there is no token or it is not accepted, the repository belongs to
            somebody else, is public where `private` is asked for, or has no such revision.
    """
    check_repo_id(repo_id)
    if constants.HF_HUB_OFFLINE:
        raise HubError("The Hub is switched off here (HF_HUB_OFFLINE is set). Unset it, or try with --dry_run.")
    if get_token() is None:
        raise HubError(f"There is no token for {constants.ENDPOINT}. {_token_help()}")
    api = HfApi()
    with _in_words(repo_id):
        user = api.whoami()
    _check_role(user)
    if "/" not in repo_id:
        repo_id = f"{user['name']}/{repo_id}"
    namespace = repo_id.partition("/")[0]
    with _in_words(repo_id):
        try:
            info = api.repo_info(repo_id)
        except RevisionNotFoundError:
            raise
        except RepositoryNotFoundError:
            info = None
    ours = namespace.lower() in {name.lower() for name in [user["name"], *_organisations(user)]}
    if info is None and not ours:
        raise HubError(
            f"{repo_id} does not exist, and the token is one of {user['name']}, who is no member of {namespace!r}. "
            f"Name a repository of your own, such as --repo_id {user['name']}/{repo_id.partition('/')[2]}."
        )
    if info is None and (create_pr or revision not in (None, constants.DEFAULT_REVISION)):
        what = "take a pull request" if create_pr else f"have a revision {revision!r}"
        raise HubError(f"{repo_id} does not exist yet, so it cannot {what}. Publish it without that first.")
    if info is not None and not ours and not create_pr:
        raise HubError(
            f"{repo_id} belongs to {namespace!r}, not to {user['name']}. Offer the files with --create_pr, or name a "
            f"repository of your own, such as --repo_id {user['name']}/{repo_id.partition('/')[2]}."
        )
    if info is not None and private and not info.private:
        raise HubError(
            f"{repo_id} exists and is public; --private holds for repositories that are created. Make it private on "
            f"{constants.ENDPOINT}/{repo_id}/settings, or choose another --repo_id."
        )
    files: frozenset[str] = frozenset()
    if info is not None:
        with _in_words(repo_id, revision):
            files = frozenset(api.list_repo_files(repo_id, revision=revision))
    return Target(repo_id, info is not None, revision, create_pr, private, files)


def upload(folder: Path, target: Target, commit_message: str) -> str:
    """Send a folder in one commit, and make sure that it is all there.

    Args:
        folder (`Path`): all its files are sent.
        target ([`Target`]): from `find_target`. A repository that does not exist is created; if the commit fails, it
            is taken back while it is empty. Files of an earlier upload that would be mixed up with these are removed
            by the same commit.
        commit_message (`str`): its first line.

    Returns:
        `str`: address of the commit or pull request.

    Raises:
        HubError: if the Hub refuses; it is then as it was. Also if files are missing after the commit, or it cannot be
            asked for them: the commit is there then, and the message names it.
    """
    api = HfApi()
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in paths.items()]
    operations += [CommitOperationDelete(name) for name in target.replaced(set(paths))]
    with _in_words(target.repo_id, target.revision):
        if not target.exists:
            api.create_repo(target.repo_id, private=target.private)
        try:
            commit = api.create_commit(
                target.repo_id,
                operations,
                commit_message=commit_message,
                revision=target.revision,
                create_pr=target.create_pr,
            )
        except BaseException:
            if not target.exists:
                _take_back(api, target.repo_id)
            raise
    try:
        missing = sorted(set(paths) - set(api.list_repo_files(target.repo_id, revision=commit.oid)))
    except (Exception, KeyboardInterrupt) as error:
        told = _without_token(f"{type(error).__name__}: {error}".rstrip(": "))
        raise HubError(
            f"Published at {commit.commit_url}, but not verified ({told}). Look there whether these files are all in "
            f"it: {', '.join(paths)}."
        ) from error
    if missing:
        raise HubError(
            f"Published, but {commit.commit_url} lacks {', '.join(missing)}: a .gitignore in the repository leaves "
            "them out. Remove it there and publish again."
        )
    return commit.pr_url or commit.commit_url


def _take_back(api: HfApi, repo_id: str) -> None:
    """Delete the repository that was created for a commit that failed, unless something is in it after all."""
    with contextlib.suppress(Exception):
        if set(api.list_repo_files(repo_id)) <= {".gitattributes"}:
            api.delete_repo(repo_id)


def _organisations(user: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in user.get("orgs") or () if entry.get("name")]


def _check_role(user: dict[str, Any]) -> None:
    role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise HubError(f"The token of {user['name']} may only read. {_token_help()}")


def _token_help() -> str:
    return _TOKEN_HELP.format(endpoint=constants.ENDPOINT)


@contextlib.contextmanager
def _in_words(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Say what went wrong on the way to the Hub in the words of this program. The token is in none of them."""
    try:
        yield
    except HubError:
        raise
    except OfflineModeIsEnabled as error:
        raise HubError("The Hub is switched off here (HF_HUB_OFFLINE is set). Unset it.") from error
    except RevisionNotFoundError as error:
        raise HubError(
            f"{repo_id} has no revision {revision!r}. Leave --revision out for the main branch, or make it first: "
            f"hf repo branch create {repo_id} {revision}"
        ) from error
    except HfHubHTTPError as error:
        raise HubError(_without_token(_refusal(error, repo_id))) from error
    except (OSError, ValueError, RuntimeError) as error:
        # RuntimeError wraps what happens in a thread of an upload
        inner = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else None
        told = _refusal(inner, repo_id) if inner else f"{repo_id} was not published: {error}"
        raise HubError(_without_token(told)) from error
    except Exception as error:
        if not _is_transport_error(error):
            raise
        raise HubError(
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}: {_without_token(str(error))}). Check "
            "the connection and HF_ENDPOINT, or try with --dry_run."
        ) from error


def _is_transport_error(error: Exception) -> bool:
    """Whether the HTTP client failed; which one that is depends on the version of huggingface_hub."""
    return any(base.__name__ in ("TransportError", "RequestError", "RequestException") for base in type(error).__mro__)


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else None
    told = (error.server_message or str(error).strip().splitlines()[0]).strip()
    if status == 401:
        return f"{constants.ENDPOINT} does not accept the token (401). {_token_help()}"
    if status == 403:
        return f"The token may not write to {repo_id} (403: {told}). {_token_help()}"
    if status == 404:
        return f"{repo_id} was not found (404: {told})."
    if status == 409:
        return f"{repo_id} was created or changed by somebody else in between (409: {told}). Try again."
    return f"{constants.ENDPOINT} refused {repo_id} ({status}: {told}). Nothing was published."


def _without_token(text: str) -> str:
    token = get_token()
    return text.replace(token, "<token>") if token else text
