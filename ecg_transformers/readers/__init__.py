"""Reading ECG files: one file per format, found through one registry.

`read_ecg(path)` picks the reader by extension and content and returns an `ECGRecord`. A further format is one further
file in this folder whose function carries `@register_reader(...)`; all modules of the folder are imported on first
use.
"""

from .content import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE, FileContent
from .errors import ECGReadError
from .folder import find_ecg_files
from .registry import ReadRequest, list_readers, read_ecg, register_reader

__all__ = [
    "MAX_SAMPLING_RATE",
    "MIN_SAMPLING_RATE",
    "ECGReadError",
    "FileContent",
    "ReadRequest",
    "find_ecg_files",
    "list_readers",
    "read_ecg",
    "register_reader",
]
