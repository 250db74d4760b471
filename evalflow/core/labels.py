"""Cluster labels without a language model: the terms that set a cluster's texts apart (c-TF-IDF).

Source: Grootendorst 2022, "BERTopic: Neural topic modeling with a class-based TF-IDF procedure", section 3.3.
"""

import re
from collections.abc import Sequence

import numpy as np

_PLACEHOLDER = re.compile(r"<[A-Z_]+>")
TERMS_PER_LABEL = 3


def cluster_terms(texts: Sequence[str], labels: np.ndarray, n_terms: int = 5) -> list[list[str]]:
    """The ``n_terms`` strongest terms of each cluster, strongest first.

    Args:
        texts: n texts.
        labels: shape (n,), cluster numbers from 0; -1 is passed over.

    Returns:
        One list per cluster number; empty for a cluster whose texts hold no words.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    n_clusters = int(labels.max(initial=-1)) + 1
    documents = [
        " ".join(_PLACEHOLDER.sub(" ", text) for text, label in zip(texts, labels, strict=True) if label == cluster)
        for cluster in range(n_clusters)
    ]
    vectoriser = CountVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d][\w'-]+\b")
    try:
        counts = vectoriser.fit_transform(documents)
    except ValueError:  # nothing but stop words, or no documents
        return [[] for _ in documents]
    size = np.asarray(counts.sum(axis=1)).ravel()
    frequency = np.asarray(counts.sum(axis=0)).ravel()
    idf = np.log1p(size.mean() / frequency)
    words = vectoriser.get_feature_names_out()
    terms = []
    for row, total in enumerate(size):
        score = counts[row].toarray().ravel() / max(total, 1) * idf
        best = np.lexsort((words, -score))[:n_terms]
        terms.append([str(words[i]) for i in best if score[i] > 0])
    return terms


def cluster_label(terms: Sequence[str], example: str) -> str:
    """A short name: the first terms, or the start of an example where there are none."""
    return " / ".join(terms[:TERMS_PER_LABEL]) or example[:40] or "(no words)"
