"""Only the sidecar package speaks Dapr, and the code that starts sidecars here.

It is plain HTTP, so no import shows it.
"""

from pathlib import Path

import enginehouse

_PACKAGE = Path(enginehouse.__file__).parent
_DAPR = ("/v1.0/", "/v1.0-alpha", "dapr-api-token")
_MAY = {"sidecar", "local"}


def test_only_the_sidecar_package_speaks_dapr_and_what_starts_sidecars() -> None:
    speakers = {
        path.relative_to(_PACKAGE).parts[0]
        for path in _PACKAGE.rglob("*.py")
        if any(word in path.read_text().lower() for word in _DAPR)
    }
    assert speakers == _MAY
