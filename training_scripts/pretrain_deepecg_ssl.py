"""Pretrain DeepECG-SSL on ECGs without labels; see `--help` and `ecg_transformers/training`.

    python training_scripts/pretrain_deepecg_ssl.py --corpus ptbxl --data_dir ptb-xl --size tiny --output_dir runs/ssl
    accelerate launch --multi_gpu --num_processes 2 training_scripts/pretrain_deepecg_ssl.py run.yaml

`--multi_gpu` starts several processes on a machine without GPUs as well; `accelerate launch --cpu` would start one.
"""

import sys

from ecg_transformers.training import parse_deepecg_ssl_pretraining_arguments, pretrain_deepecg_ssl, run_script

if __name__ == "__main__":
    sys.exit(run_script(pretrain_deepecg_ssl, parse_deepecg_ssl_pretraining_arguments))
