"""Score frozen encoders by a linear classifier, beside untrained ones; see `--help` and `ecg_transformers/training`.

python training_scripts/linear_probe.py --model runs/hybrid runs/mae --corpus synthetic --drop_leads V1 V2 V3 V4 V5 V6
"""

import sys

from ecg_transformers.training import parse_probe_arguments, run_probe, run_script

if __name__ == "__main__":
    sys.exit(run_script(run_probe, parse_probe_arguments, "interrupted; no scores were written"))
