"""Mismatched reports for the matching task: nearest-neighbour negative sampling (N3S) of D-BETA.

Reports are embedded, and the mismatched report of a record is drawn from the `k` reports least similar to its own (as
D-BETA does: arXiv 2410.02131), or most similar to it (hard negatives; ours).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..files import written_atomically

logger = logging.get_logger(__name__)

KINDS = ("dissimilar", "similar")

# Entries of the table of distances that are held at once.
_TABLE_ENTRIES = 16_000_000

Embedder = Callable[[Sequence[str]], torch.Tensor]


def normalize_embeddings(embeddings: torch.Tensor) -> torch.Tensor:
    """Divide each row by its Euclidean norm plus 1e-10."""
    return embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-10)


class NegativeReports:
    """A bank of reports from which mismatched ones are drawn.

    Args:
        texts (iterable of `str`): cleaned reports; each is kept once.
        embed (callable): from a list of texts to a tensor `(texts, features)`, see `TfidfEmbedder` and `T5Embedder`.
        k (`int`, *optional*, defaults to 64): candidates for each report; fewer where the bank is smaller.
        kind (`str`, *optional*, defaults to `"dissimilar"`): whether candidates are the least or the most similar.
        embeddings (`torch.Tensor` of shape `(unique texts, features)`, *optional*): those of `unique_texts(texts)`,
            where they are known already.
        use_faiss (`bool`, *optional*): search with faiss; by default where it is installed. The result is the same.

    Raises:
        ValueError: if there are fewer than two different texts, or an argument is out of range.

    Example:
        >>> bank = NegativeReports(reports, TfidfEmbedder(reports))
        >>> mismatched = bank.draw(reports[:8], torch.rand(8))
    """

    def __init__(
        self,
        texts: Iterable[str],
        embed: Embedder,
        k: int = 64,
        kind: str = "dissimilar",
        embeddings: torch.Tensor | None = None,
        use_faiss: bool | None = None,
    ):
        if kind not in KINDS:
            raise ValueError(f"Negative reports are {' or '.join(map(repr, KINDS))}; got {kind!r}.")
        if k < 1:
            raise ValueError(f"`k` candidates must be at least 1; got {k}.")
        self.texts = unique_texts(texts)
        if len(self.texts) < 2:
            raise ValueError("Negative sampling needs at least two different reports; all of these are the same.")
        self.embed = embed
        self.k = k
        self.kind = kind
        embeddings = embed(self.texts) if embeddings is None else embeddings
        if embeddings.ndim != 2 or len(embeddings) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts have embeddings of shape {tuple(embeddings.shape)}.")
        self.embeddings = normalize_embeddings(embeddings.float())
        self._squares = self.embeddings.square().sum(-1)
        self._row_of = {text: row for row, text in enumerate(self.texts)}
        self._faiss = _faiss_index(self.embeddings, use_faiss)

    def __len__(self) -> int:
        return len(self.texts)

    def search(self, embeddings: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the candidates for queries, exactly.

        Args:
            embeddings (`torch.Tensor` of shape `(queries, features)`): not yet normalised.
            k (`int`): candidates for each query, at most as many as there are texts.

        Returns:
            `tuple` of two `torch.Tensor` of shape `(queries, k)`: squared Euclidean distances, ascending, and rows of
            `texts`. With `"dissimilar"` they are distances to the negated query, 2 + 2 cos; else 2 - 2 cos.
        """
        queries = normalize_embeddings(embeddings.float())
        if self.kind == "dissimilar":
            queries = -queries
        if self._faiss is not None:
            distances, rows = self._faiss.search(queries.numpy(), k)
            return torch.from_numpy(distances), torch.from_numpy(rows)
        found = []
        for part in queries.split(max(1, _TABLE_ENTRIES // len(self.texts))):
            table = torch.addmm(self._squares, part, self.embeddings.T, alpha=-2.0)
            distances, rows = table.topk(k, largest=False)
            found.append((distances + part.square().sum(-1, keepdim=True), rows))
        return torch.cat([distances for distances, _ in found]), torch.cat([rows for _, rows in found])

    def draw(self, texts: Sequence[str], uniforms: torch.Tensor) -> list[str]:
        """Draw a mismatched report for each text, uniformly from its candidates; never the text itself.

        Args:
            texts (sequence of `str`): cleaned reports; those that are not in the bank are embedded.
            uniforms (`torch.Tensor` of shape `(texts,)`): numbers in [0, 1) that decide.

        Returns:
            `list[str]`: texts of the bank.
        """
        if not len(texts):
            return []
        own = [self._row_of.get(text, -1) for text in texts]
        strangers = [text for text, row in zip(texts, own, strict=True) if row < 0]
        queries = self.embeddings[torch.tensor(own).clamp(min=0)]
        if strangers:
            queries[torch.tensor(own) < 0] = normalize_embeddings(self.embed(strangers).float())
        # One more than needed: a similar report's first candidate is itself.
        _, rows = self.search(queries, min(self.k + 1, len(self.texts)))
        drawn = []
        for candidates, row, uniform in zip(rows.tolist(), own, uniforms.tolist(), strict=True):
            candidates = [candidate for candidate in candidates if candidate != row][: self.k]
            drawn.append(self.texts[candidates[min(int(uniform * len(candidates)), len(candidates) - 1)]])
        return drawn


def unique_texts(texts: Iterable[str]) -> list[str]:
    """Return different texts once each, in the order of their first occurrence."""
    return list(dict.fromkeys(texts))


def _faiss_index(embeddings: torch.Tensor, wanted: bool | None) -> Any:
    if wanted is False:
        return None
    try:
        import faiss
    except ImportError as error:
        if wanted:
            raise ImportError("Searching with faiss needs pip install 'ecg-transformers[faiss]'") from error
        return None
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(embeddings.numpy())
    return index


class TfidfEmbedder:
    """Embed reports by their words and pairs of words (TF-IDF, reduced to few dimensions where there are many).

    Needs no download and no GPU. D-BETA embeds with flan-t5-small: see `T5Embedder`.

    Args:
        texts (sequence of `str`): the reports that the vocabulary and its weights are taken from.
        dimensions (`int`, *optional*, defaults to 256): largest number of features.
    """

    name = "tfidf"

    def __init__(self, texts: Sequence[str], dimensions: int = 256):
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+", max_features=2**15
        )
        texts = unique_texts(texts)
        try:
            matrix = self._vectorizer.fit_transform(texts)
        except ValueError as error:
            raise ValueError(f"There are no words in the {len(texts)} reports, so they cannot be compared.") from error
        self._reduction = None
        if matrix.shape[1] > dimensions:
            self._reduction = TruncatedSVD(min(dimensions, len(texts)), random_state=0).fit(matrix)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings, `(texts, features)`; zeros for a text without a known word."""
        matrix = self._vectorizer.transform(texts)
        dense = matrix.toarray() if self._reduction is None else self._reduction.transform(matrix)
        return torch.from_numpy(dense).float()


class T5Embedder:
    """Embed reports by the mean of a T5 encoder's last hidden states over the tokens of the text.

    D-BETA takes flan-t5-small. (There the mean of the bank runs over the padding of its batch as well, which makes a
    text's embedding depend on its neighbours; here it does not.)

    Args:
        name_or_path (`str`): folder or Hub id with a T5 encoder and its tokenizer.
        batch_size (`int`, *optional*, defaults to 64): texts at once.
        max_length (`int`, *optional*, defaults to 256): tokens; longer texts are cut.
        device (`str`, *optional*): by default the GPU if there is one.

    Raises:
        ValueError: if there is no such encoder or tokenizer.
    """

    def __init__(self, name_or_path: str, batch_size: int = 64, max_length: int = 256, device: str | None = None):
        from transformers import AutoTokenizer, T5EncoderModel

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            model, info = T5EncoderModel.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"No T5 encoder with its tokenizer can be loaded from {name_or_path!r}; give a folder or Hub id such "
                f"as google/flan-t5-small, or 'tfidf', which needs none. {error}"
            ) from error
        if info["missing_keys"] or info["mismatched_keys"]:
            lacking = sorted({*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])})
            raise ValueError(f"{name_or_path} lacks {len(lacking)} tensors of a T5 encoder: {', '.join(lacking[:3])}.")
        self.name = str(name_or_path)
        self.batch_size = batch_size
        self.max_length = max_length
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the embeddings, `(texts, hidden)`, on the CPU."""
        from tqdm.auto import tqdm

        # Similar lengths together: less padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        embeddings = torch.empty(len(texts), self._model.config.d_model)
        starts = range(0, len(texts), self.batch_size)
        for start in tqdm(starts, desc="Embedding reports", unit="batch", disable=True if len(starts) < 20 else None):
            rows = order[start : start + self.batch_size]
            batch = self._tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(self._device)
            hidden = self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
            mask = batch.attention_mask[..., None].to(hidden.dtype)
            embeddings[rows] = ((hidden * mask).sum(1) / mask.sum(1)).cpu()
        return embeddings


def make_embedder(name: str, texts: Sequence[str]) -> Embedder:
    """Return the embedder of a name: `"tfidf"`, or folder or Hub id of a T5 encoder."""
    return TfidfEmbedder(texts) if name == "tfidf" else T5Embedder(name)


def embed_with_cache(embed: Embedder, texts: Sequence[str], path: str | Path) -> torch.Tensor:
    """Embed texts, or read the embeddings that an earlier call has left in a file.

    Args:
        embed (callable): an embedder with a `name`.
        texts (sequence of `str`): the texts.
        path (`str` or `Path`): a safetensors file. It is written whole or not at all, and used only if it belongs to
            the same texts and embedder.

    Returns:
        `torch.Tensor` of shape `(texts, features)`.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    path = Path(path)
    digest = hashlib.sha256(json.dumps([embed.name, list(texts)]).encode()).hexdigest()
    if path.is_file():
        try:
            with safe_open(str(path), "pt") as file:
                if (file.metadata() or {}).get("texts") == digest:
                    return file.get_tensor("embeddings")
        except (SafetensorError, OSError) as error:
            logger.warning(f"{path} cannot be read ({error}); the reports are embedded anew.")
    embeddings = embed(texts)
    with written_atomically(path, "wb") as file:
        file.write(save({"embeddings": embeddings.contiguous()}, metadata={"texts": digest}))
    return embeddings
