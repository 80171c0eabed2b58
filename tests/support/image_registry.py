"""A registry of container images that holds one image, which the Docker Engine can pull from 127.0.0.1 by its digest."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.support.docker import docker

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_BLOBS = {
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar",
}


@contextmanager
def pulled(image: str, folder: Path) -> Iterator[str]:
    """Have the Docker Engine pull a copy of an image of its own, for the length of the block; give its name by digest.

    It has that name, and its digest, by being pulled only: an image that was built has none.
    """
    blobs = _blobs(image, folder)
    manifest = next(name for name in blobs if blobs[name].name == "manifest")

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = blobs.get(self.path.rpartition("/")[2])
            self.send_response(200 if content or self.path == "/v2/" else 404)
            self.send_header("Content-Length", str(content.stat().st_size if content else 0))
            self.send_header("Content-Type", _MANIFEST)
            self.end_headers()
            if content and self.command == "GET":
                with content.open("rb") as file:
                    self.wfile.write(file.read())

        do_HEAD = do_GET  # noqa: N815 - as http.server wants it

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        Thread(target=server.serve_forever).start()
        name = f"127.0.0.1:{server.server_port}/team/engine@{manifest}"
        try:
            docker("pull", "--quiet", name)
        finally:
            server.shutdown()
        yield name
        docker("image", "rm", name)


def _blobs(image: str, folder: Path) -> dict[str, Path]:
    """Return the files that a registry keeps of an image, by their digests."""
    docker("save", "--output", str(folder / "saved.tar"), image)
    with tarfile.open(folder / "saved.tar") as saved:
        saved.extractall(folder, filter="data")
    (found,) = json.loads((folder / "manifest.json").read_text())
    parts = [("config", found["Config"]), *(("layer", layer) for layer in found["Layers"])]
    described = [
        {"mediaType": _BLOBS[kind], "digest": _digest(folder / name), "size": (folder / name).stat().st_size}
        for kind, name in parts
    ]
    manifest = folder / "manifest"
    manifest.write_text(
        json.dumps({"schemaVersion": 2, "mediaType": _MANIFEST, "config": described[0], "layers": described[1:]})
    )
    files = [*(folder / name for _, name in parts), manifest]
    return {_digest(file): file for file in files}


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
