"""The Open Inference Protocol v2, for whoever asks such a server and for whoever answers as one.

`tensors` holds one tensor, `bodies` the protocol over REST, `messages` and `rpc` the protocol over gRPC. Jobs carry an infer
request and its answer as a document: the JSON of REST, where a tensor may have `raw` (base64 text) in the place of `data`.
"""
