"""A server of the Open Inference Protocol that answers with its inputs: as binary data where that is asked for."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEADER = "Inference-Header-Content-Length"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(json.dumps({"name": "echo", "ready": True, "inputs": [], "outputs": []}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = int(self.headers.get(HEADER) or len(body))
        request, data = json.loads(body[:head]), body[head:]
        outputs, contents = [], []
        for tensor in request["inputs"]:
            parameters = tensor.get("parameters", {})
            if (size := parameters.get("binary_data_size")) is not None:
                contents.append(data[:size])
                data = data[size:]
            outputs.append(tensor)
        answer = json.dumps({"model_name": "echo", "id": request["id"], "outputs": outputs}).encode()
        if contents:
            self.answer(b"".join([answer, *contents]), **{HEADER: str(len(answer))})
        else:
            self.answer(answer)

    def answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
