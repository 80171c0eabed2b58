"""Files by which a supervisor tells a runner about the containers of its engine."""

CONTAINERS_FOLDER = "containers"
"""Where they are, in the folder that both share."""
IMAGE_FILE = "image"
"""Names the image that the engine's containers are made from, by its digest. Missing: the engine is no container."""


def out_of_memory_file(address: str) -> str:
    """Return the name of the file that says when memory was last refused to the replica at `host:port`.

    Its content is that moment, in seconds since the epoch.
    """
    return address.replace(":", "_") + ".out-of-memory"
