"""What a published folder says of licences: of its weights, and of the code beside them."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from .. import __version__

NOTICE, APACHE_LICENCE = "NOTICE", "LICENSE-CODE"

_DISTRIBUTION = "ecg-transformers"


def licence_link(licence: str) -> str | None:
    """Return where the text of a licence is, for Creative Commons and those of SPDX that are common for weights."""
    known = {
        "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
        "mit": "https://opensource.org/license/mit",
        "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    }
    found = re.fullmatch(r"cc-(by(?:-nc)?(?:-sa|-nd)?)-(\d\.\d)", licence)
    return f"https://creativecommons.org/licenses/{found[1]}/{found[2]}/" if found else known.get(licence)


def render_notice(licence: str, with_code: bool, own: str | None = None) -> str:
    """Return the text of `NOTICE`.

    Args:
        licence (`str`): Hub identifier of that of the weights.
        with_code (`bool`): whether code lies beside.
        own (`str`, *optional*): the `NOTICE` of the source, which is kept in front.
    """
    link = licence_link(licence)
    if licence == "unknown":
        weights = "Weights: no licence was chosen. Ask whoever published them before you use or pass them on."
    else:
        weights = f"Weights: {licence}{f' ({link})' if link else ''}."
    paragraphs = [weights]
    if with_code:
        paragraphs.append(
            f"Code (*.py): from {_DISTRIBUTION} {__version__}, Apache License 2.0, see "
            f"{APACHE_LICENCE}. The licence of the code says nothing about the weights."
        )
    paragraphs.append("For research, not for diagnosis.")
    text = "\n\n".join(paragraphs) + "\n"
    if own is None or own.endswith(text):
        return own or text
    return f"{own.rstrip()}\n\n{text}"


def write_apache_licence(path: Path) -> None:
    """Write the licence of this package's code, which goes where the code goes.

    Raises:
        FileNotFoundError: if the installed package came without it.
    """
    root = Path(__file__).resolve().parents[2]
    # Of an installed package the folder is that of all packages, whose licence would be another's
    if (root / "pyproject.toml").is_file():
        path.write_bytes((root / "LICENSE").read_bytes())
        return
    for file in importlib.metadata.files(_DISTRIBUTION) or ():
        if file.name == "LICENSE":
            path.write_bytes(file.locate().read_bytes())
            return
    raise FileNotFoundError(f"The licence of {_DISTRIBUTION} is not installed with it; install the package again.")
