"""Pretrain DeepECG-SSL on ECGs without labels; see `--help` and `ecg_transformers/training`.

    python training_scripts/pretrain_deepecg_ssl.py --corpus ptbxl --data_dir ptb-xl --size tiny --output_dir runs/ssl
    accelerate launch --multi_gpu --num_processes 2 training_scripts/pretrain_deepecg_ssl.py run.yaml

`--multi_gpu` starts several processes on a machine without GPUs as well; `accelerate launch --cpu` would start one.
"""

import sys

from ecg_transformers.training import (
    TrainingInterrupted,
    parse_deepecg_ssl_pretraining_arguments,
    pretrain_deepecg_ssl,
)


def main() -> int:
    """Run the script and return its exit code."""
    try:
        pretrain_deepecg_ssl(*parse_deepecg_ssl_pretraining_arguments())
    except TrainingInterrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("interrupted before training had begun", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if "debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
