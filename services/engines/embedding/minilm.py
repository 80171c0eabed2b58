"""Build all-MiniLM-L6-v2 as an ONNX graph from the weights in its Python package, without PyTorch.

The architecture is that of BERT: six layers of attention over 12 heads, then the mean over a text's tokens, scaled to
length 1.
"""

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

LAYERS, HEADS, WIDTH = 6, 12, 384
MAX_TOKENS = 256
"""The model was trained on texts of up to this many tokens."""

EPSILON = 1e-12
OPSET, IR_VERSION = 20, 9


def build(folder: Path) -> bytes:
    """Return the model with the weights in `folder`.

    Its inputs are token ids and mask [texts, tokens], its output is unit vectors [texts, 384].
    """
    graph = _Graph(load_file(folder / "model.safetensors"))
    hidden = _embed(graph)
    far_away = graph.op("Mul", graph.op("Sub", graph.number(1), graph.mask(axes=[1, 2])), graph.number(-10_000))
    for number in range(LAYERS):
        hidden = _layer(graph, f"encoder.layer.{number}", hidden, far_away)
    return graph.model(_pool(graph, hidden)).SerializeToString()


class _Graph:
    """Collects nodes and their weights."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = weights
        self._nodes: list[object] = []
        self._constants: dict[str, object] = {}

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return the name of its output."""
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def number(self, value: float) -> str:
        return self.constant(f"number_{value}", np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(f"integers_{values}", np.array(values, dtype=np.int64))

    def weight(self, name: str, *, transposed: bool = False) -> str:
        value = self._weights[name]
        return self.constant(name, value.T if transposed else value)

    def linear(self, name: str, hidden: str) -> str:
        product = self.op("MatMul", hidden, self.weight(f"{name}.weight", transposed=True))
        return self.op("Add", product, self.weight(f"{name}.bias"))

    def norm(self, name: str, hidden: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=EPSILON)

    def mask(self, axes: list[int]) -> str:
        """Return the mask as floats with additional dimensions."""
        return self.op("Cast", self.op("Unsqueeze", "mask", self.integers(*axes)), to=TensorProto.FLOAT)

    def model(self, output: str) -> ModelProto:
        """Return the complete model."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"]) for name in ("ids", "mask")
        ]
        self._nodes.append(helper.make_node("Identity", [output], ["vectors"]))
        outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", WIDTH])]
        graph = helper.make_graph(self._nodes, "minilm", inputs, outputs, list(self._constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _embed(graph: _Graph) -> str:
    words = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "ids")
    length = graph.op("Shape", "ids", start=1, end=2)
    table = graph.weight("embeddings.position_embeddings.weight")
    places = graph.op("Slice", table, graph.integers(0), length, graph.integers(0))
    kinds = graph.op("Gather", graph.weight("embeddings.token_type_embeddings.weight"), graph.integers(0))
    return graph.norm("embeddings.LayerNorm", graph.op("Add", graph.op("Add", words, places), kinds))


def _layer(graph: _Graph, name: str, hidden: str, far_away: str) -> str:
    attended = graph.linear(
        f"{name}.attention.output.dense", _attend(graph, f"{name}.attention.self", hidden, far_away)
    )
    hidden = graph.norm(f"{name}.attention.output.LayerNorm", graph.op("Add", attended, hidden))
    wide = graph.op("Gelu", graph.linear(f"{name}.intermediate.dense", hidden))
    narrow = graph.linear(f"{name}.output.dense", wide)
    return graph.norm(f"{name}.output.LayerNorm", graph.op("Add", narrow, hidden))


def _attend(graph: _Graph, name: str, hidden: str, far_away: str) -> str:
    def heads(part: str, order: list[int]) -> str:
        split = graph.op("Reshape", graph.linear(f"{name}.{part}", hidden), graph.integers(0, 0, HEADS, WIDTH // HEADS))
        return graph.op("Transpose", split, perm=order)

    scores = graph.op("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
    scaled = graph.op("Mul", scores, graph.number((WIDTH / HEADS) ** -0.5))
    shares = graph.op("Softmax", graph.op("Add", scaled, far_away), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", shares, heads("value", [0, 2, 1, 3])), perm=[0, 2, 1, 3])
    return graph.op("Reshape", mixed, graph.integers(0, 0, WIDTH))


def _pool(graph: _Graph, hidden: str) -> str:
    mask = graph.mask(axes=[2])
    total = graph.op("ReduceSum", graph.op("Mul", hidden, mask), graph.integers(1), keepdims=0)
    mean = graph.op("Div", total, graph.op("ReduceSum", mask, graph.integers(1), keepdims=0))
    return graph.op("LpNormalization", mean, axis=-1, p=2)
