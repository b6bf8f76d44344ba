"""Score a model with a text encoder by the descriptions of labels; see `--help` and `ecg_transformers/evaluation`.

python training_scripts/evaluate_zero_shot.py --model dbeta --corpus synthetic --output_dir zero-shot/synthetic
"""

import sys

from ecg_transformers.evaluation import evaluate_zero_shot, parse_zero_shot_arguments


def main() -> int:
    """Run the script and return its exit code."""
    try:
        evaluate_zero_shot(*parse_zero_shot_arguments())
    except KeyboardInterrupt:
        print("interrupted; no scores were written", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
