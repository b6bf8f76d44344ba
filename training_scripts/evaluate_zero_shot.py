"""Score a model with a text encoder by the descriptions of labels; see `--help` and `ecg_transformers/evaluation`.

python training_scripts/evaluate_zero_shot.py --model dbeta --corpus synthetic --output_dir zero-shot/synthetic
"""

import sys

from ecg_transformers.evaluation import evaluate_zero_shot, parse_zero_shot_arguments
from ecg_transformers.training import run_script

if __name__ == "__main__":
    sys.exit(run_script(evaluate_zero_shot, parse_zero_shot_arguments, "interrupted; no scores were written"))
