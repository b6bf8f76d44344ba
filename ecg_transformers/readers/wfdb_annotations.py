"""Annotation files of WFDB records: what was marked at which sample (beats, rhythms, waves).

Format: https://wfdb.io/spec/annotation-files.html (annot(5) of the WFDB Applications Guide), the "MIT format". Ours
reads a file in one pass over checked bytes; `wfdb.rdann` takes 5 ms for a file of a few hundred bytes, and LUDB alone
has 2,400 of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ECGReadError
from .wfdb_header import decode_text

# Symbols by code, https://wfdb.io/spec/annotation-codes.html; codes that the list leaves out have no symbol.
SYMBOLS = {
    **dict(enumerate("NLRaVFJASEj/Q~", start=1)),
    **{16: "|", 18: "s", 19: "T", 20: "*", 21: "D", 22: '"', 23: "=", 24: "p", 25: "B", 26: "^", 27: "t", 28: "+"},
    **dict(enumerate("u?![]en@xf()r", start=29)),
}
_LARGEST_CODE = 49
_SKIP, _NUM, _SUB, _CHN, _AUX = 59, 60, 61, 62, 63

# Half an hour of Holter has 2 to 4 thousand; a day of them 150 thousand.
_MAX_BYTES = 64 * 2**20

_AGAIN = "Fetch the annotation file again, from the same release as the record."


@dataclass
class Annotations:
    """The annotations of one file, in its order.

    Args:
        samples (`np.ndarray` of shape `(annotations,)`): int64, samples from the record's start, at its rate.
        symbols (`list[str]`): one per annotation, as https://wfdb.io/spec/annotation-codes.html lists them: `N` normal
            beat, `V` premature ventricular beat, `+` change of rhythm, `(` and `)` wave boundaries, ...; `?17` stands
            for code 17, which has none.
        texts (`list[str]`): the text beside it, empty where there is none; with `+` the rhythm, such as `(AFIB`.
    """

    samples: np.ndarray
    symbols: list[str]
    texts: list[str]


def read_annotations(path: Path) -> Annotations:
    """Read an annotation file in the MIT format, such as `100.atr` or LUDB's `1.avf`.

    Args:
        path (`Path`): the file.

    Returns:
        `Annotations`: without the comments (`## ...`) by which some programs note rate and symbols at sample 0.

    Raises:
        ECGReadError: if the file cannot be read, ends within an annotation, or is no annotation file.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ECGReadError(path, f"an annotation file of more than {_MAX_BYTES} bytes.", _AGAIN)
        data = path.read_bytes()
    except OSError as error:
        raise ECGReadError(path, f"cannot be read ({error.strerror or error}).", "Check the path.") from None
    samples: list[int] = []
    codes: list[int] = []
    texts: list[str] = []
    time = position = 0
    end = len(data) - 1
    while position < end:
        word = data[position] | data[position + 1] << 8
        position += 2
        code, value = word >> 10, word & 0x3FF
        if code == _SKIP:
            if position + 4 > len(data):
                raise ECGReadError(path, "the file ends within an interval.", _AGAIN)
            # The high half comes first, each half with its low byte first.
            high, low = data[position : position + 2], data[position + 2 : position + 4]
            time += int.from_bytes(low + high, "little", signed=True)
            position += 4
        elif code == _AUX:
            if position + value > len(data) or not samples:
                raise ECGReadError(path, f"a text of {value} bytes is cut off or belongs to nothing.", _AGAIN)
            texts[-1] = decode_text(data[position : position + value]).split("\0")[0]
            position += value + value % 2
        elif code in (_NUM, _SUB, _CHN):
            continue
        elif word == 0:
            break
        elif code > _LARGEST_CODE:
            raise ECGReadError(path, f"byte {position - 2} has the code {code}, which does not exist.", _AGAIN)
        else:
            time += value
            if code == 0:
                # "Not an annotation": `wfdb.wrann` moves the time by one after its own comment.
                continue
            if time < 0:
                raise ECGReadError(path, f"byte {position - 2} annotates a sample before the record.", _AGAIN)
            samples.append(time)
            codes.append(code)
            texts.append("")
    else:
        raise ECGReadError(path, "the two zero bytes at its end are missing: truncated, or no such file.", _AGAIN)
    kept = [index for index, text in enumerate(texts) if not (samples[index] == 0 and text.startswith("## "))]
    return Annotations(
        np.array([samples[index] for index in kept], dtype=np.int64),
        [SYMBOLS.get(codes[index], f"?{codes[index]}") for index in kept],
        [texts[index] for index in kept],
    )
