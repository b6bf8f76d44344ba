"""Pretrain HuBERT-ECG on ECGs without labels: `cluster` descriptors into codes, `train` a model to find them.

    python training_scripts/pretrain_hubert_ecg.py cluster --corpus ptbxl --data_dir ptb-xl --output runs/codes-1
    python training_scripts/pretrain_hubert_ecg.py train --corpus ptbxl --data_dir ptb-xl --codebooks runs/codes-1 \
        --size small --output runs/iteration-1
    accelerate launch --multi_gpu --num_processes 2 training_scripts/pretrain_hubert_ecg.py train run.yaml

`--multi_gpu` starts several processes on a machine without GPUs as well; `accelerate launch --cpu` would start one.
"""

import sys

from ecg_transformers.training import run_hubert_ecg_command

if __name__ == "__main__":
    sys.exit(run_hubert_ecg_command())
