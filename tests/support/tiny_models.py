"""Makes tiny models for real servers. Run by the Python of an environment that has their packages: `FILE KIND TARGET`."""

import sys


def iris(target: str) -> None:
    """Write a classifier of scikit-learn's irises."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    data = load_iris()
    joblib.dump(LogisticRegression(max_iter=500).fit(data.data, data.target), target)


def iris_alone(target: str) -> None:
    """Write the same classifier for scikit-learn as `iris.skops`, and for ONNX as `iris.onnx`, into a folder."""
    import onnx
    import skops.io
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    data = load_iris()
    model = LogisticRegression(max_iter=500).fit(data.data, data.target)
    skops.io.dump(model, f"{target}/iris.skops")
    number = onnx.TensorProto.FLOAT
    takes = onnx.helper.make_tensor_value_info("flowers:0", number, ["flowers", 4])
    gives = onnx.helper.make_tensor_value_info("probabilities", number, ["flowers", 3])
    weights = onnx.helper.make_tensor("weights", number, [4, 3], model.coef_.T.flatten())
    bias = onnx.helper.make_tensor("bias", number, [3], model.intercept_)
    nodes = [
        onnx.helper.make_node("Gemm", ["flowers:0", "weights", "bias"], ["scores"]),
        onnx.helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    graph = onnx.helper.make_graph(nodes, "iris", [takes], [gives], [weights, bias])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), f"{target}/iris.onnx")


def language(target: str) -> None:
    """Write a language model of one layer with random weights, and a vocabulary of bytes and syllables."""
    import gguf
    import numpy as np

    size, inner, heads, context = 32, 64, 4, 256
    syllables = [f"\u2581{first}{second}" for first in "bdfgklmnprst" for second in "aeiou"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *syllables]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (1 + len(syllables))]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size // heads)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_scores([-float(rank) for rank in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}{{ message.content }} {% endfor %}")
    random = np.random.default_rng(7)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(size, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(size, np.float32))
    shapes = {"token_embd": (len(tokens), size), "output": (len(tokens), size)}
    shapes |= {f"blk.0.attn_{part}": (size, size) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (inner, size), "blk.0.ffn_up": (inner, size), "blk.0.ffn_down": (size, inner)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.5, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    {"iris": iris, "iris-alone": iris_alone, "language": language}[sys.argv[1]](sys.argv[2])
