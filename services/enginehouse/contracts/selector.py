"""Selects engines by tenant, name, version and label: `tenant=acme,label.team=nlp,version=v2`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginehouse.contracts.errors import RequestError

LABELS_MAX = 16
LABEL_NAME_PATTERN = r"[a-z][a-z0-9._-]{0,31}"
LABEL_VALUE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_LABEL = "label."
_TERM = re.compile(rf"(tenant|name|version|label\.{LABEL_NAME_PATTERN})=({LABEL_VALUE_PATTERN})")


@dataclass(frozen=True, slots=True)
class Selector:
    """What all selected engines have. Empty: every engine."""

    terms: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> "Selector":
        """Read a selector. Raise RequestError, naming the part, if one cannot be read or is there twice."""
        terms: dict[str, str] = {}
        for part in text.split(",") if text.strip() else []:
            found = _TERM.fullmatch(part.strip())
            if found is None or found[1] in terms:
                wrong = "is there twice" if found else "cannot be read"
                raise RequestError(
                    f"The part {part.strip()[:80]!r} of the selector {wrong}; a selector looks like "
                    "tenant=acme,name=sentiment,version=v2,label.team=nlp, and every part of it must hold"
                )
            terms[found[1]] = found[2]
        return cls(terms)

    def selects(self, tenant: str, name: str, version: str | None, labels: Mapping[str, str]) -> bool:
        """Return whether an engine has everything that the selector asks for."""
        has = {
            "tenant": tenant,
            "name": name,
            "version": version,
            **{_LABEL + key: value for key, value in labels.items()},
        }
        return all(has.get(key) == value for key, value in self.terms.items())
