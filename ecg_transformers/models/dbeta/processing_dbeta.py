"""`DBetaProcessor`: recordings and texts in, the inputs of a D-BETA model out."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoTokenizer,
    ProcessorMixin,
)
from transformers.feature_extraction_utils import BatchFeature

# The text encoder of the published weights; its vocabulary has 32100 tokens, its embedding 32128 rows
PUBLISHED_TOKENIZER = "google/flan-t5-base"
PUBLISHED_VOCABULARY = 32128
# Tokens of the longest text in the published pretraining
LONGEST_TEXT = 256

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "spiece.model")
_LOCATION_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def describe_missing_tokenizer(folder: str | os.PathLike, vocab_size: int | None = None) -> str:
    """Say which tokenizer a folder lacks and how to add it.

    Args:
        folder (`str` or path): the model folder.
        vocab_size (`int`, *optional*): rows of the text encoder's embedding, which tell the published weights.
    """
    if vocab_size in (None, PUBLISHED_VOCABULARY):
        which = f"that of {PUBLISHED_TOKENIZER}, with which the published weights were trained"
        name = PUBLISHED_TOKENIZER
    else:
        which = (
            f"the one with which the weights were trained; their vocabulary of {vocab_size} is not that of "
            f"{PUBLISHED_TOKENIZER} ({PUBLISHED_VOCABULARY})"
        )
        name = "FOLDER_OF_THE_TOKENIZER"
    return (
        f"{folder} has no tokenizer, which texts need: {which}. Add it with\n"
        f'  python -c "from transformers import AutoTokenizer; AutoTokenizer.from_pretrained({name!r})'
        f'.save_pretrained({str(folder)!r})"\n'
        f"or when converting: ecg-transformers convert SOURCE {folder} --tokenizer {name} --overwrite"
    )


def _load_extractor(source: str | os.PathLike, location: dict[str, Any]):
    try:
        return AutoFeatureExtractor.from_pretrained(source, **location)
    except OSError as error:
        # A model folder without a recipe gets that of its model type, where the type's extractor is registered
        try:
            extractor_class = FEATURE_EXTRACTOR_MAPPING[type(AutoConfig.from_pretrained(source, **location))]
        except (OSError, ValueError, KeyError):
            raise error from None
        return extractor_class.from_pretrained(source, **location)


class DBetaProcessor(ProcessorMixin):
    r"""Turn recordings and texts into the inputs of a D-BETA model.

    Args:
        feature_extractor ([`ECGFeatureExtractor`]): the recipe from millivolts to model input.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): of the text encoder. A model without one
            (`ecg_only`) needs none; texts are refused then.

    Example:
        ```python
        >>> from transformers import AutoModel, AutoProcessor

        >>> processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
        >>> inputs = processor(ecg=record, text=["atrial fibrillation", "sinus rhythm"], return_tensors="pt")
        >>> scores = model(**inputs).logits_per_ecg
        ```
    """

    def __init__(self, feature_extractor=None, tokenizer=None):
        if tokenizer is not None:
            super().__init__(feature_extractor, tokenizer)
        else:
            self.check_argument_for_proper_class("feature_extractor", feature_extractor)
            self.feature_extractor, self.tokenizer, self.chat_template = feature_extractor, None, None

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs."""
        return ["input_values", "attention_mask", "input_ids", "text_attention_mask"]

    def __call__(
        self,
        ecg: Any = None,
        text: str | Sequence[str] | None = None,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        units: str = "mV",
        windows: str = "first",
        device: str | torch.device | None = None,
        generator: torch.Generator | int | None = None,
        padding: bool | str = True,
        truncation: bool | str = True,
        max_length: int | None = None,
        lower_case: bool = True,
        return_lead_mask: bool = False,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Prepare recordings, texts, or both; their numbers may differ.

        Args:
            ecg (record, array, or list of them, *optional*): as [`ECGFeatureExtractor`] takes them: an `ECGRecord`, an
                array of shape `(leads, samples)` or `(records, leads, samples)`, or a list of any rates and lengths.
            text (`str` or sequence of `str`, *optional*): reports, or descriptions of labels.
            sampling_rate, lead_names, units, windows, device, generator: see [`ECGFeatureExtractor`].
            padding (`bool` or `str`, *optional*, defaults to `True`): of the texts: to the longest, to `"max_length"`,
                or `False`.
            truncation (`bool` or `str`, *optional*, defaults to `True`): cut texts to `max_length`.
            max_length (`int`, *optional*): tokens of a text at most, `</s>` included; what the tokenizer says if not
                given, else 256, the longest in the published pretraining.
            lower_case (`bool`, *optional*, defaults to `True`): lower the case of the texts, as in pretraining.
            return_lead_mask (`bool`, *optional*, defaults to `False`): return which leads carry signal. The model
                takes no such input.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`. Without it texts are lists and recordings arrays.

        Returns:
            `BatchFeature` with, for recordings,
            - `input_values` (float32, `(rows, 12, samples)`), `attention_mask` (int64, `(rows, samples)`: 1 real),
            - `lead_mask` (`(rows, 12)`) if asked for, and `record_index` (`(rows,)`) with `windows="all"`;

            and for texts `input_ids` and `text_attention_mask` (int64, `(texts, tokens)`: 1 real).

        Raises:
            ValueError: if there is neither recording nor text, a text is none, or the processor has no tokenizer for
                it; and whatever the extractor refuses.
        """
        if ecg is None and text is None:
            raise ValueError("Pass `ecg=`, `text=` or both; got neither.")
        features: dict[str, Any] = {}
        if ecg is not None:
            features |= self.feature_extractor(
                ecg,
                sampling_rate=sampling_rate,
                lead_names=lead_names,
                units=units,
                windows=windows,
                device=device,
                generator=generator,
                return_attention_mask=True,
                return_tensors=return_tensors,
            )
            if not return_lead_mask:
                del features["lead_mask"]
        if text is not None:
            encoded = self._tokenize(text, lower_case, padding, truncation, max_length, return_tensors)
            if return_tensors == "pt" and device is not None:
                encoded = {name: value.to(device) for name, value in encoded.items()}
            features |= encoded
        return BatchFeature(features)

    def _tokenize(self, text, lower_case, padding, truncation, max_length, return_tensors) -> dict[str, Any]:
        if self.tokenizer is None:
            raise ValueError(
                "This processor has no tokenizer, so it takes no text: its model has an ECG encoder only, or the "
                "folder was never given one. The published weights go with that of "
                f"{PUBLISHED_TOKENIZER}: DBetaProcessor(feature_extractor, AutoTokenizer.from_pretrained(…))."
            )
        texts = [text] if isinstance(text, str) else list(text)
        wrong = [index for index, entry in enumerate(texts) if not isinstance(entry, str)]
        if wrong or not texts:
            found = f"text {wrong[0]} is a {type(texts[wrong[0]]).__name__}" if wrong else "an empty list"
            raise ValueError(f"Expected a string or a list of strings for `text=`; got {found}.")
        if lower_case:
            texts = [entry.lower() for entry in texts]
        if max_length is None:
            # Without a limit of its own a tokenizer states an astronomical one
            stated = self.tokenizer.model_max_length
            max_length = stated if stated < 10**9 else LONGEST_TEXT
        encoded = self.tokenizer(
            texts,
            padding=padding,
            # The first token is pooled, so it must be one of the text
            padding_side="right",
            truncation=truncation,
            max_length=max_length if truncation or padding == "max_length" else None,
            return_attention_mask=True,
            return_tensors=return_tensors,
        )
        return {"input_ids": encoded["input_ids"], "text_attention_mask": encoded["attention_mask"]}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "DBetaProcessor":
        """Load the recipe and the tokenizer of a folder or Hub id.

        Args:
            pretrained_model_name_or_path (`str` or path): folder or Hub id.
            kwargs: where to look (`revision`, `token`, `cache_dir`, …) and `trust_remote_code`.

        Raises:
            OSError: if there is no recipe, or no tokenizer and the model is not `ecg_only`; the message says which
                tokenizer is needed and how to add it.
        """
        location = {name: kwargs[name] for name in _LOCATION_ARGUMENTS if kwargs.get(name) is not None}
        if kwargs.get("trust_remote_code") is not None:
            location["trust_remote_code"] = kwargs["trust_remote_code"]
        extractor = _load_extractor(pretrained_model_name_or_path, location)
        try:
            tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **location)
        except (OSError, ValueError, KeyError) as error:
            folder = os.path.join(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
            if any(os.path.exists(os.path.join(folder, name)) for name in _TOKENIZER_FILES):
                raise OSError(f"The tokenizer in {folder} cannot be read: {error}") from error
            try:
                config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **location)
            except (OSError, ValueError):
                config = None
            if not getattr(config, "ecg_only", False):
                vocab_size = getattr(getattr(config, "text_config", None), "vocab_size", None)
                raise OSError(
                    f"{describe_missing_tokenizer(pretrained_model_name_or_path, vocab_size)}\nFor recordings alone "
                    "use AutoFeatureExtractor."
                ) from error
            tokenizer = None
        return cls(extractor, tokenizer)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any):
        """Write `preprocessor_config.json` and the files of the tokenizer.

        There is no `processor_config.json`: the recipe would then lie in the folder twice.

        Args:
            save_directory (`str` or path): the model folder.
            push_to_hub (`bool`): not for a processor alone; push the folder.
        """
        if push_to_hub:
            raise ValueError("Push the model folder that the processor belongs to, not the processor alone.")
        os.makedirs(save_directory, exist_ok=True)
        files = list(self.feature_extractor.save_pretrained(save_directory) or ())
        if self.tokenizer is not None:
            # Tells AutoProcessor of this class where no config.json lies beside
            self.tokenizer._set_processor_class(type(self).__name__)
            files += self.tokenizer.save_pretrained(save_directory)
        return files
