"""Pretrain Hybrid ECG on ECGs without labels; see `--help` and `ecg_transformers/training`.

    python training_scripts/pretrain_hybrid_ecg.py --corpus ptbxl --data_dir ptb-xl --size tiny --output_dir runs/hyb
    accelerate launch --multi_gpu --num_processes 2 training_scripts/pretrain_hybrid_ecg.py run.yaml

`--multi_gpu` starts several processes on a machine without GPUs as well; `accelerate launch --cpu` would start one.
"""

import sys

from ecg_transformers.training import parse_hybrid_ecg_pretraining_arguments, pretrain_hybrid_ecg, run_script

if __name__ == "__main__":
    sys.exit(run_script(pretrain_hybrid_ecg, parse_hybrid_ecg_pretraining_arguments))
