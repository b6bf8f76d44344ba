"""Fine-tune an ECG model on a labelled corpus; see `--help` and `ecg_transformers/training`.

    python training_scripts/finetune_classification.py --corpus synthetic --size tiny --output_dir runs/synthetic
    accelerate launch --multi_gpu --num_processes 2 training_scripts/finetune_classification.py run.yaml

`--multi_gpu` starts several processes on a machine without GPUs as well; `accelerate launch --cpu` would start one.
"""

import sys

from ecg_transformers.training import finetune, parse_finetuning_arguments, run_script

if __name__ == "__main__":
    sys.exit(run_script(finetune, parse_finetuning_arguments))
