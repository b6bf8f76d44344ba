"""Arguments of the Hybrid ECG pretraining script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..models.hybrid_ecg.configuration_hybrid_ecg import MASK_STRATEGIES
from .arguments import CorpusArguments
from .augmentation_settings import AUGMENTATIONS, AugmentationArguments
from .presets import HYBRID_ECG_PRESETS
from .pretraining_arguments import PretrainingArguments, PretrainingModelArguments
from .run_arguments import parse_arguments
from .view_sampling import ALIGNMENTS

# Learning rate for a batch of 256 records (ST-MEM's pretraining, `configs/pretrain/st_mem.yaml`).
LEARNING_RATE_PER_256 = 1.5e-4
# Those with which fairseq-signals contrasts segments (`w2v_cmsc_augs.yaml`); no polarity flip, as deviations of the ST
# segment have a sign.
VIEW_AUGMENTATIONS = ("amplitude", "powerline", "emg", "baseline_wander", "baseline_shift", "lead_mask")


@dataclass
class HybridModelArguments(PretrainingModelArguments):
    """Which model, and what it learns from."""

    size: str | None = field(
        default=None,
        metadata={
            "help": "Named size for training from scratch: 'demo' (for a CPU), 'tiny', 'small' or 'base' (default)."
        },
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration, for example "
            "'patch_layout=per_lead,patch_size=75,pooling=mean,temperature=0.2,decoder_num_hidden_layers=2'. From a "
            "checkpoint only settings that keep the shapes of the weights make sense."
        },
    )
    reconstruction_loss_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the masked reconstruction. Default: the configuration's, 1. With 0 nothing is "
            "rebuilt: plain SimCLR, the contrastive ablation."
        },
    )
    contrastive_loss_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the contrast between two views of a record. Default: the configuration's, 0.1. With 0 "
            "no views are computed: a plain masked autoencoder, the generative ablation."
        },
    )
    mask_strategy: str | None = field(
        default=None,
        metadata={
            "help": "What is hidden together: single tokens ('random'), stretches of one length ('span'), short and "
            "long stretches mixed ('multi_scale'), whole leads ('lead', with patch_layout=per_lead). Default: the "
            "configuration's, 'random'.",
            "choices": list(MASK_STRATEGIES),
        },
    )
    mask_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of a record's tokens that is hidden. Default: the configuration's, 0.75."},
    )

    def settings(self) -> dict[str, Any]:
        """Return the fields of the configuration that the arguments set."""
        inherited = {entry.name for entry in fields(PretrainingModelArguments)}
        names = [entry.name for entry in fields(self) if entry.name not in inherited]
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class ViewArguments:
    """The two views of a record that the contrast brings together."""

    view_seconds: float = field(
        default=5.0,
        metadata={
            "help": "Length of a view, a part of the record's window; the window's length or more takes all of it."
        },
    )
    align: str = field(
        default="random",
        metadata={
            "help": "Where views start: anywhere ('random'), or at a detected R peak ('r_peak'), so that two views "
            "differ in beat and augmentation but not in phase.",
            "choices": list(ALIGNMENTS),
        },
    )

    def __post_init__(self):
        if not 0 < self.view_seconds < float("inf"):
            raise ValueError(f"--view_seconds is a positive number of seconds; got {self.view_seconds}.")
        if self.align not in ALIGNMENTS:
            raise ValueError(f"--align is one of {', '.join(ALIGNMENTS)}; got {self.align!r}.")


@dataclass
class ViewAugmentationArguments(AugmentationArguments):
    """How the views are disturbed."""

    augmentations: list[str] = field(
        default_factory=lambda: list(VIEW_AUGMENTATIONS),
        metadata={
            "nargs": "+",
            "choices": [*AUGMENTATIONS, "all", "none"],
            "help": "Disturbances of the views, before the model's own preprocessing, as a recording can have them, "
            "so that the model learns what is the heart's: 'amplitude' (gain), 'powerline' (mains hum), 'emg' "
            "(muscle), 'baseline_wander' (breathing), 'baseline_shift' (an electrode moves), 'time_mask' and "
            "'lead_mask' (hidden spans and leads); 'all' or 'none'. They act on electrodes, so limb leads still fit "
            "together. Strengths below are the largest; each view draws its own up to them. What is rebuilt stays as "
            "it is; views of validation records are disturbed too, always in the same way.",
        },
    )


@dataclass
class HybridPretrainingArguments(PretrainingArguments):
    """How to optimise.

    Of the paper (arXiv 2407.07110) we know the abstracts, which give no settings. The defaults are those of the masked
    autoencoder ST-MEM: AdamW with betas 0.9 and 0.95, weight decay 0.01, learning rate 1.5e-4 for a batch of 256,
    warm-up, cosine to 0. Batch, number of epochs and share of the warm-up are ours.
    """

    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate. Default: 1.5e-4 x batch / 256, where the batch is that of a step, over all "
            "processes and accumulated."
        },
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "Second beta of AdamW."})
    adam_epsilon: float = field(default=1e-8, metadata={"help": "Epsilon of AdamW."})
    schedule: str = field(
        default="trainer",
        metadata={
            "help": "'trainer': as --lr_scheduler_type and --warmup_steps say; 'tri_stage': up over 10 %% of the "
            "steps, held for 40 %%, exponentially down to 5 %% of the rate.",
            "choices": ["trainer", "tri_stage"],
        },
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Warm-up: steps, or a share of all steps if below 1."})
    per_device_train_batch_size: int = field(
        default=64,
        metadata={
            "help": "Training records per process and step. Records of one step, of all processes, are each other's "
            "negatives; accumulated steps are not, so contrast wants large batches."
        },
    )
    per_device_eval_batch_size: int = field(
        default=64,
        metadata={
            "help": "Records per process in evaluation, each other's negatives there: validation losses compare at "
            "one value of it."
        },
    )
    num_train_epochs: float = field(default=100.0, metadata={"help": "Passes over the training records."})
    metric_for_best_model: str | None = field(
        default="loss",
        metadata={"help": "Validation metric that picks the best checkpoint, such as reconstruction_loss."},
    )
    picture_steps: int = field(
        default=500,
        metadata={
            "help": "Every so many steps draw how one validation record is rebuilt, and once at the end, into the "
            "folder reconstructions of --output_dir; 0 draws nothing. Needs matplotlib."
        },
    )

    def __post_init__(self):
        if self.picture_steps < 0:
            raise ValueError(f"--picture_steps is a number of steps, or 0 for no pictures; got {self.picture_steps}.")
        super().__post_init__()
        if self.learning_rate is None:
            batch = self.train_batch_size * self.world_size * self.gradient_accumulation_steps
            self.learning_rate = LEARNING_RATE_PER_256 * batch / 256


def parse_hybrid_ecg_pretraining_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[
    HybridModelArguments, CorpusArguments, ViewArguments, HybridPretrainingArguments, ViewAugmentationArguments
]:
    """Read the arguments of a Hybrid ECG pretraining run.

    Args:
        arguments (sequence of `str`, *optional*): see `parse_arguments`.

    Returns:
        `tuple` of `HybridModelArguments`, `CorpusArguments`, `ViewArguments`, `HybridPretrainingArguments` and
        `ViewAugmentationArguments`.

    Raises:
        ValueError: if the file cannot be read, names unknown arguments, or a value is out of range.

    Example:
        >>> parse_hybrid_ecg_pretraining_arguments(["--corpus", "ptbxl", "--data_dir", "ptb-xl", "--output_dir", "x"])
    """
    return parse_arguments(
        (
            HybridModelArguments,
            CorpusArguments,
            ViewArguments,
            HybridPretrainingArguments,
            ViewAugmentationArguments,
        ),
        arguments,
        "Pretrain Hybrid ECG on ECGs without labels: rebuild the hidden part of a record (masked autoencoder), and "
        "tell two disturbed views of it from the views of other records (contrast). Loss = "
        "reconstruction_loss_weight x reconstruction + contrastive_loss_weight x contrast; --contrastive_loss_weight "
        "0 leaves a plain masked autoencoder, --reconstruction_loss_weight 0 --contrastive_loss_weight 1 plain "
        "SimCLR. Logged are both, alignment (how close the views of a record are; lower is better) and uniformity "
        "(how evenly records spread; lower is better, near 0 they have collapsed). The first argument may be a .json "
        "or .yaml file with the same names. --preset demo trains on the synthetic corpus in minutes, --preset tiny "
        "the size tiny in ten. The result goes to training_scripts/finetune_classification.py --model_name_or_path.",
        usage="%(prog)s [run.yaml] [--preset demo|tiny] --output_dir FOLDER [options]",
        presets=HYBRID_ECG_PRESETS,
    )
