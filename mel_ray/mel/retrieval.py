"""Which remembered lesson is about a question like this one: scores by words, or by an embedding model."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mel_ray.config.learning import RetrievalConfig
from mel_ray.records.trajectory import Floats


def likenesses(question: str, documents: Sequence[str], options: RetrievalConfig) -> Floats:
    """How much alike the question and each document are, [documents]; 0 or less: nothing in common."""
    if options.method == "embedding" and options.model is not None:
        return embedding(question, documents, options.model)
    return bm25(question, documents)


def bm25(question: str, documents: Sequence[str]) -> Floats:
    """BM25 by Robertson's weights, [documents]: a word in half of the documents or more counts nothing, so that
    common words do not decide. 0 where no other word is shared."""
    import bm25s

    def words(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords=None, return_ids=False, show_progress=False)

    index, (asked,) = bm25s.BM25(method="robertson"), words([question])
    known = words(documents)
    if not asked or not any(known):
        return np.zeros(len(documents), dtype=np.float32)
    index.index(known, show_progress=False)
    return np.asarray(index.get_scores(asked), dtype=np.float32)


def embedding(question: str, documents: Sequence[str], model: str) -> Floats:
    """Cosine of the mean hidden states of `model`, the folder or hub id of an encoder, [documents]."""
    asked = _embedded(model, question)
    return np.array([float(asked @ _embedded(model, text)) for text in documents], dtype=np.float32)


@lru_cache(maxsize=10_000)
def _embedded(path: str, text: str) -> Floats:
    """Of length 1."""
    import torch

    tokenizer, model = _encoder(path)
    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
    with torch.no_grad():
        mean = model(**encoded).last_hidden_state[0].mean(0)
    return np.asarray(mean / mean.norm().clamp_min(1e-12), dtype=np.float32)


@lru_cache(maxsize=1)
def _encoder(path: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
