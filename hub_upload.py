"""Publish a model folder on the Hugging Face Hub; see `--help` and `ecg_transformers/publishing`.

python hub_upload.py outputs/my-ptbxl --repo_id me/hubert-ecg-ptbxl --private
python hub_upload.py outputs/my-ptbxl --repo_id me/hubert-ecg-ptbxl --dry_run
"""

import sys

from ecg_transformers.publishing import parse_publish_arguments, publish
from ecg_transformers.training import run_script

_INTERRUPTED = "interrupted; nothing was published, unless the Hub was just taking the commit"

if __name__ == "__main__":
    sys.exit(run_script(publish, parse_publish_arguments, _INTERRUPTED))
