"""A T5 tokenizer learnt from ECG reports, for text encoders that start from scratch."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import T5Tokenizer

# The first three numbers of every T5 vocabulary.
_FIRST_TOKENS = ("<pad>", "</s>", "<unk>")
# Reports are lower-cased before they are tokenised; whoever keeps capitals finds them among the texts.
_ALPHABET = string.ascii_lowercase + string.digits + string.punctuation
_LONGEST_PIECE = 16
_WORD_START = "▁"  # what SentencePiece writes for a blank
# Letters, digits and punctuation never share a piece, as in SentencePiece: a comma changes no word.
_RUNS = re.compile(f"{_WORD_START}?(?:[^\\W\\d_]+|\\d+|.)")


def train_report_tokenizer(
    texts: Iterable[str], vocab_size: int = 4096, num_sentinels: int = 100, max_length: int | None = None
) -> T5Tokenizer:
    """Learn a vocabulary in the layout of T5: `<pad>` 0, `</s>` 1, `<unk>` 2, pieces, sentinels at the end.

    Nothing is downloaded. Lower-case letters, digits and punctuation of ASCII and the characters of the texts always
    have a piece, so English in lower case never becomes `<unk>`. The result depends on the texts alone, not on their
    order or the run. Texts are segmented as T5 does, by the most probable pieces (Unigram).

    Args:
        texts (iterable of `str`): the reports, cleaned as they will be in training.
        vocab_size (`int`, *optional*, defaults to 4096): tokens in all, at most; few or similar texts give fewer.
        num_sentinels (`int`, *optional*, defaults to 100): tokens `<extra_id_0>`, `<extra_id_1>`, ..., at least one:
            masked language modelling uses the first. As in T5 the first one has the highest number.
        max_length (`int`, *optional*): what `truncation=True` cuts texts to; unlimited by default.

    Returns:
        `T5Tokenizer`: appends `</s>` to every text; `save_pretrained` writes a folder for `AutoTokenizer`.

    Raises:
        ValueError: if there is no text, or `vocab_size` does not hold characters and sentinels.

    Example:
        ```python
        tokenizer = train_report_tokenizer(["sinus rhythm", "atrial fibrillation"], vocab_size=200)
        tokenizer(["sinus rhythm"], padding=True, return_tensors="pt").input_ids
        ```
    """
    from transformers import T5Tokenizer

    runs = Counter(run for text in texts for word in text.split() for run in _RUNS.findall(_WORD_START + word))
    if not runs:
        raise ValueError("There is no text to learn a tokenizer from: all reports are empty.")
    if num_sentinels < 1:
        raise ValueError(f"num_sentinels must be at least 1, for the mask token; got {num_sentinels}.")
    alphabet = sorted({*_ALPHABET, _WORD_START, *(character for run in runs for character in run)})
    needed = len(_FIRST_TOKENS) + len(alphabet) + num_sentinels
    if vocab_size < needed:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: {len(alphabet)} characters and {num_sentinels} sentinels alone "
            f"need {needed}."
        )
    counts = _count_pieces(runs, alphabet, vocab_size - num_sentinels - len(_FIRST_TOKENS))
    total = sum(counts.values())
    vocabulary = [(token, 0.0) for token in _FIRST_TOKENS]
    # Half a count keeps pieces possible that the reports need only inside longer ones.
    vocabulary += [(piece, math.log((count + 0.5) / total)) for piece, count in counts.items()]
    vocabulary += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(num_sentinels))]
    limit = {} if max_length is None else {"model_max_length": max_length}
    return T5Tokenizer(vocab=vocabulary, extra_ids=num_sentinels, **limit)


def _count_pieces(runs: Counter[str], alphabet: list[str], size: int) -> dict[str, int]:
    """Return at most `size` pieces, frequent ones first, and how often the runs of the texts use each.

    The pieces are those of byte-pair merges: the trainer of Unigram vocabularies in the tokenizers library gives
    another vocabulary at every call, and no whole words where texts are few.
    """
    from tokenizers import Tokenizer, models, trainers

    learner = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, max_token_length=_LONGEST_PIECE, show_progress=False
    )
    # Without a pre-tokenizer each text is one word for the trainer.
    learner.train_from_iterator((run for run in sorted(runs) for _ in range(runs[run])), trainer)
    counts = dict.fromkeys(learner.get_vocab(), 0)
    for run, count in runs.items():
        for piece in learner.encode(run).tokens:
            counts[piece] += count
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
