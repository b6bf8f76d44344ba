"""Arguments of the fine-tuning script, and how they are read from the command line or a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .run_arguments import RunArguments, parse_arguments, parse_value


@dataclass
class ModelArguments:
    """Which model, and which of its parts learn."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to start from: a folder or a Hub id, pretrained or already fine-tuned. A "
            "classification head "
            "whose labels are not those of the corpus is replaced. Without it the model starts from scratch."
        },
    )
    model_type: str = field(
        default="hubert_ecg",
        metadata={"help": "Architecture for training from scratch; ignored with --model_name_or_path."},
    )
    size: str | None = field(
        default=None,
        metadata={
            "help": "Named size for training from scratch, such as tiny, small, base or large; default: the model "
            "type's own."
        },
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration, for example 'hidden_size=64,num_hidden_layers=2,conv_dim=[32,32]', "
            "of a part with its name before a dot: 'ecg_config.num_hidden_layers=2'. From a checkpoint only settings "
            "that keep the shapes of the weights make sense."
        },
    )
    head: str | None = field(
        default=None,
        metadata={
            "help": "Classification head: 'linear', 'mlp' (two layers with tanh) or 'label_embedding' (cosine "
            "similarity to "
            "one vector per label), as far as the model type has them. Default: the checkpoint's or the model type's."
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "Named preprocessing recipe of the model type. Default: the one stored with the checkpoint, else "
            "the one "
            "the published weights were trained with."
        },
    )
    freeze_encoder: bool = field(
        default=False,
        metadata={"help": "Train the head only (linear probing with the default head)."},
    )
    unfreeze_last: int | None = field(
        default=None,
        metadata={"help": "Train the head and the last N layers only (of a convolutional network: stages)."},
    )
    train_convolution: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Whether the convolutions that turn samples into tokens learn. Default: frozen when starting from "
            "a "
            "checkpoint (as the HuBERT-ECG authors fine-tune), trained from scratch.",
        },
    )
    layerwise_lr_decay: float = field(
        default=1.0,
        metadata={
            "help": "Each layer below the head learns at this factor times the rate of the layer above it; 1 gives "
            "all "
            "layers the same rate, 0.75 to 0.9 protects what the lower layers learnt in pretraining."
        },
    )
    layerdrop: float | None = field(
        default=None,
        metadata={
            "help": "Probability of skipping a whole transformer layer in a training step (HuBERT-ECG: 0 to 0.2)."
        },
    )
    dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout inside the encoder. Default: 0 from a checkpoint whose configuration is known to be one "
            "for "
            "pretraining (as the HuBERT-ECG authors fine-tune), otherwise the configuration's."
        },
    )
    head_dropout: float | None = field(
        default=None, metadata={"help": "Dropout before the head's last linear layer. Default: the configuration's."}
    )
    mask_time_prob: float = field(
        default=0.0,
        metadata={
            "help": "Share of tokens hidden from the encoder during fine-tuning (SpecAugment over time); 0 hides none."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "'sdpa' (default of most models), 'eager' or 'flash_attention_2'."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub checkpoint."})

    def __post_init__(self):
        if self.unfreeze_last is not None and self.unfreeze_last < 0:
            raise ValueError(f"--unfreeze_last counts layers, so it is 0 or more; got {self.unfreeze_last}.")
        if self.freeze_encoder and self.unfreeze_last:
            raise ValueError(
                f"--freeze_encoder and --unfreeze_last {self.unfreeze_last} contradict each other; give one of them."
            )
        if not 0 < self.layerwise_lr_decay <= 1:
            raise ValueError(f"--layerwise_lr_decay is a factor in (0, 1]; got {self.layerwise_lr_decay}.")
        for name in ("layerdrop", "dropout", "head_dropout", "mask_time_prob"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"--{name} is a probability in [0, 1); got {value}.")

    @property
    def from_scratch(self) -> bool:
        """Whether no checkpoint is given."""
        return self.model_name_or_path is None


@dataclass
class CorpusArguments:
    """Which recordings."""

    corpus: str = field(
        default="synthetic",
        metadata={
            "help": "Name in `ecg_transformers.corpora` (synthetic, challenge, ptbxl, table, ...), 'folder' with "
            "--data_dir for a folder of ECG files or of a saved data set, that folder itself, or the Hub id of a data "
            "set with an ECG column."
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the corpus' files."})
    task: str | None = field(
        default=None,
        metadata={"help": "Label set of the corpus; ptbxl: superclass, subclass, all, diagnostic, form, rhythm."},
    )
    train_csv: str | None = field(
        default=None,
        metadata={
            "help": "table: CSV of the training records (filename, age, sex, label columns; for pretraining with "
            "reports filename and report)."
        },
    )
    validation_csv: str | None = field(default=None, metadata={"help": "table: CSV of the validation records."})
    test_csv: str | None = field(default=None, metadata={"help": "table: CSV of the test records."})
    ecg_dir: str | None = field(
        default=None, metadata={"help": "table: folder that the CSV's file names are relative to."}
    )
    label_start_index: int | None = field(
        default=None,
        metadata={"help": "table: index (from 0) of the first label column; all columns from there are labels."},
    )
    min_positives: int | None = field(
        default=None, metadata={"help": "challenge: keep labels with at least this many positive records."}
    )
    sampling_rate: float | None = field(
        default=None, metadata={"help": "Hz; for corpora whose files do not tell, or that exist at several rates."}
    )
    corpus_options: list[str] = field(
        default_factory=list,
        metadata={
            "help": "More options of the corpus as key=value, for example 'num_patients=400 seed=3'. Values are read "
            "as JSON "
            "where possible. The corpus' docstring lists them."
        },
    )
    train_windows: str = field(
        default="random",
        metadata={
            "help": "Which window of a longer record training sees: 'random' (another one every epoch) or 'first'.",
            "choices": ["random", "first"],
        },
    )

    def __post_init__(self):
        self.options()

    def options(self) -> dict[str, Any]:
        """Return the options of the corpus: those with an argument of their own and those of `corpus_options`.

        Raises:
            ValueError: if an entry of `corpus_options` is not key=value, or gives again what has its own argument.
        """
        named = ("task", "train_csv", "validation_csv", "test_csv", "ecg_dir", "label_start_index", "min_positives")
        options = {name: getattr(self, name) for name in (*named, "sampling_rate") if getattr(self, name) is not None}
        if float(options.get("sampling_rate", 0.5)).is_integer():
            options["sampling_rate"] = int(options["sampling_rate"])
        for entry in self.corpus_options:
            key, separator, value = entry.partition("=")
            if not separator or not key:
                raise ValueError(f"--corpus_options takes key=value; got {entry!r}.")
            if key in options:
                raise ValueError(f"The corpus option {key!r} is given twice; leave one out.")
            options[key] = parse_value(value)
        return options


@dataclass
class DataArguments(CorpusArguments):
    """Which recordings and which labels."""

    pos_weight: str = field(
        default="auto",
        metadata={
            "help": "Multi-label loss: 'auto' weights the positives of each label by negatives / positives of the "
            "training "
            "split, 'none' weights all alike.",
            "choices": ["auto", "none"],
        },
    )
    max_pos_weight: float | None = field(
        default=None, metadata={"help": "Upper limit of --pos_weight auto; without it a very rare label can dominate."}
    )
    label_fraction: float = field(
        default=1.0,
        metadata={
            "help": "Keep this share of the labelled training records, such as 0.01 or 0.1: whole patients, drawn by "
            "--label_fraction_seed, the smaller share within the larger. Validation and test stay as they are. With "
            "--freeze_encoder it is linear probing on few labels."
        },
    )
    label_fraction_seed: int = field(
        default=0,
        metadata={"help": "Seed of --label_fraction; apart from --seed, so that runs can differ on equal records."},
    )

    def __post_init__(self):
        if self.max_pos_weight is not None and self.max_pos_weight <= 0:
            raise ValueError(f"--max_pos_weight must be above 0; got {self.max_pos_weight}.")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(
                f"--label_fraction is a share above 0 and at most 1, such as 0.01 for 1 %; got {self.label_fraction}."
            )
        if self.label_fraction_seed < 0:
            raise ValueError(f"--label_fraction_seed is 0 or more; got {self.label_fraction_seed}.")
        super().__post_init__()


@dataclass
class EvaluationArguments:
    """How the model is judged on validation and test records."""

    eval_windows: str = field(
        default="all",
        metadata={
            "help": "Windows of a longer record that are predicted and combined: 'all' or only the 'first'.",
            "choices": ["first", "all"],
        },
    )
    window_aggregation: str = field(
        default="mean",
        metadata={
            "help": "How the probabilities of a record's windows become one: 'mean' or 'max'.",
            "choices": ["mean", "max"],
        },
    )
    threshold_criterion: str = field(
        default="f1",
        metadata={
            "help": "What the decision thresholds maximise on validation: 'f1', 'youden' or 'challenge'.",
            "choices": ["f1", "youden", "challenge"],
        },
    )
    bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples (of patients) behind the confidence intervals; 0 leaves them out."}
    )
    confidence_level: float = field(default=0.95, metadata={"help": "Coverage of the confidence intervals."})
    challenge_weights: str | None = field(
        default=None,
        metadata={"help": "weights.csv of a CinC Challenge: adds the Challenge score for labels that it knows."},
    )
    evaluate_untrained: bool = field(
        default=False,
        metadata={
            "help": "Also score a randomly initialised model of the same configuration: what learning has added."
        },
    )
    fairness: bool = field(
        default=False,
        metadata={
            "help": "Also score how far true- and false-positive rates differ between sexes and age groups (0-17, "
            "18-39, 40-59, 60-79, 80+) of the test records, at the model's thresholds."
        },
    )
    fairness_min_patients: int = field(
        default=10,
        metadata={"help": "Patients with (and without) a label that a group needs to be compared in its rates."},
    )

    def __post_init__(self):
        if self.fairness_min_patients < 1:
            raise ValueError(f"--fairness_min_patients must be 1 or more; got {self.fairness_min_patients}.")
        if self.bootstrap_resamples < 0:
            raise ValueError(f"--bootstrap_resamples must be 0 or more; got {self.bootstrap_resamples}.")
        if not 0 < self.confidence_level < 1:
            raise ValueError(f"--confidence_level lies between 0 and 1; got {self.confidence_level}.")
        if self.threshold_criterion == "challenge" and self.challenge_weights is None:
            raise ValueError("--threshold_criterion challenge needs --challenge_weights path/to/weights.csv.")


@dataclass
class FinetuningArguments(RunArguments):
    """`TrainingArguments` with the defaults of fine-tuning an ECG model.

    The defaults follow the HuBERT-ECG authors where they published theirs (medRxiv 10.1101/2024.11.14.24317328):
    AdamW, learning rate 1e-5, weight decay 0.01, 8 % warm-up, batches of 64. Other models have the learning rates of
    their authors where those are published (`building.MODEL_HOOKS` names sources); those from scratch are ours.
    """

    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for the fine-tuned model, its card, metrics and checkpoints. Required."},
    )
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate. Default from a checkpoint: hubert_ecg and dbeta 1e-5, deepecg_ssl 5e-5, "
            "hybrid_ecg 2.5e-4, deepecg_sl 1e-3. For the head alone (--freeze_encoder): hubert_ecg 1e-5, deepecg_sl "
            "1e-2, others 1e-3. From scratch: deepecg_sl 1e-3, others 5e-4."
        },
    )
    warmup_steps: float = field(default=0.08, metadata={"help": "Warm-up: steps, or a share of all steps if below 1."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Training records per process and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Records per process in evaluation."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training records."})
    metric_for_best_model: str | None = field(
        default=None,
        metadata={
            "help": "Validation metric that picks the best checkpoint and stops early. Default: macro_auroc, or mae "
            "for "
            "regression."
        },
    )
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Stop after this many evaluations without a better metric; 0 never stops early."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "How much better the metric has to be to count."}
    )
    dynamic_regularizer: bool = field(
        default=False,
        metadata={
            "help": "Raise weight decay and dropout while validation stagnates, lower them while it improves, as "
            "HuBERT-ECG's "
            "pretraining does."
        },
    )

    def __post_init__(self):
        self.metric_was_given = self.metric_for_best_model is not None
        super().__post_init__()


def parse_finetuning_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[ModelArguments, DataArguments, EvaluationArguments, FinetuningArguments]:
    """Read the arguments of a fine-tuning run.

    Args:
        arguments (sequence of `str`, *optional*): the command line without the program's name; `sys.argv` by default.
            If the first one is the path of a `.json`, `.yaml` or `.yml` file, its entries (names as on the command
            line, without dashes) are the defaults that the other arguments change.

    Returns:
        `tuple` of `ModelArguments`, `DataArguments`, `EvaluationArguments` and `FinetuningArguments`.

    Raises:
        ValueError: if the file cannot be read, names unknown arguments, or a value is out of range.

    Example:
        >>> parse_finetuning_arguments(["run.yaml", "--learning_rate", "3e-5"])
    """
    return parse_arguments(
        (ModelArguments, DataArguments, EvaluationArguments, FinetuningArguments),
        arguments,
        "Fine-tune an ECG model on a labelled corpus, evaluate it, and save it with its card. The first argument may "
        "be a .json or .yaml file with the same names.",
    )
