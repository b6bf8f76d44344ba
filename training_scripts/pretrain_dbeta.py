"""Pretrain D-BETA on ECGs and their reports; see `--help` and `ecg_transformers/training`.

    python training_scripts/pretrain_dbeta.py --corpus ptbxl --data_dir ptb-xl --size tiny --output_dir runs/dbeta
    accelerate launch --multi_gpu --num_processes 2 training_scripts/pretrain_dbeta.py run.yaml

`--multi_gpu` starts several processes on a machine without GPUs as well; `accelerate launch --cpu` would start one.
"""

import sys

from ecg_transformers.training import parse_dbeta_pretraining_arguments, pretrain_dbeta, run_script

if __name__ == "__main__":
    sys.exit(run_script(pretrain_dbeta, parse_dbeta_pretraining_arguments))
