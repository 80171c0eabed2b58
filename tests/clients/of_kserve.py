"""Calls Enginehouse with KServe's clients. Arguments: address of REST, address of gRPC, API key, plain engine, tensor engine."""

import asyncio
import sys

import numpy
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

REST, GRPC, KEY, PLAIN, TENSORS = sys.argv[1:]
DTYPES = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT64": "int64",
    "UINT16": "uint16",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


def tensor(name, sent, datatype, binary):
    made = InferInput(name, list(sent.shape), datatype)
    made.set_data_from_numpy(sent, binary_data=binary)
    return made


async def check(infer):
    for binary in (False, True):
        text = tensor("text", numpy.array(["one three"], dtype=object), "BYTES", binary)
        answer = await infer(InferRequest(PLAIN, [text], request_id="42"))
        outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
        assert outputs["words"] == [2], outputs
        assert outputs["longest"] in (["three"], [b"three"]), outputs
        assert (answer.id, answer.model_name) == ("42", PLAIN)
        for datatype, name in DTYPES.items():
            if datatype == "FP16" and not binary:
                continue  # The client itself refuses it.
            sent = numpy.array([[1, 0], [1, 1]]).astype(name)
            wanted = [RequestedOutput("x", parameters={"binary_data": binary})]
            answer = await infer(InferRequest(TENSORS, [tensor("x", sent, datatype, binary)], request_outputs=wanted))
            found = answer.outputs[0].as_numpy()
            assert found.dtype == sent.dtype, (datatype, binary, found)
            assert (found == sent).all(), (datatype, binary, found)


async def main():
    url, headers, metadata = f"http://{REST}", {"Authorization": f"Bearer {KEY}"}, [("authorization", f"Bearer {KEY}")]
    rest, grpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(GRPC)
    assert await rest.is_server_live(url)
    assert await rest.is_server_ready(url)
    assert await rest.is_model_ready(url, PLAIN, headers=headers)
    assert await grpc.is_server_live()
    assert await grpc.is_server_ready()
    assert await grpc.is_model_ready(PLAIN, headers=metadata)
    await check(lambda request: rest.infer(url, request, headers=headers, model_name=request.model_name))
    await check(lambda request: grpc.infer(request, headers=metadata))
    await rest.close()
    await grpc.close()


asyncio.run(main())
