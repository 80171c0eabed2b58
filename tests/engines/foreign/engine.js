// An engine in another language, without our package and without dependencies: any HTTP server that answers POST /predict
// is an engine. It has no /openapi.json, so nothing is known about its input beforehand.
"use strict";
const http = require("node:http");

function predict(body) {
  let request;
  try {
    request = JSON.parse(body);
  } catch {
    return [400, { error: { message: "not JSON", retryable: false } }];
  }
  if (typeof request.data !== "string") {
    return [422, { error: { message: "data must be a string", retryable: false } }];
  }
  return [200, { result: [...request.data].reverse().join("") }];
}

const server = http.createServer((request, response) => {
  const answer = (status, body) => {
    const text = JSON.stringify(body);
    response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
    response.end(text);
  };
  if (request.url === "/healthz") return answer(200, { status: "ok" });
  if (request.url !== "/predict" || request.method !== "POST") return answer(404, { error: { message: "no such page" } });
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => answer(...predict(Buffer.concat(parts).toString("utf8"))));
});

server.listen(Number(process.env.PORT || 8000), process.env.HOST || "127.0.0.1");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
