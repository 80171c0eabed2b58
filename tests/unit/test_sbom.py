"""The bills of materials of what we ship are CycloneDX, and name what is in there."""

import json

from tests.support.sbom import environment_bill, image_bill, mistake_in


def _purls(bill: str) -> set[str]:
    return {part.get("purl", "") for part in json.loads(bill)["components"]}


def test_the_bill_of_the_environment_names_what_runs_and_no_tests() -> None:
    bill = environment_bill()
    assert mistake_in(bill) is None
    names = {part["name"] for part in json.loads(bill)["components"]}
    assert {"fastapi", "cryptography", "pydantic"} <= names
    assert not {"mypy", "ruff"} & names


def test_the_bill_of_an_image_names_its_debian_packages_and_its_python() -> None:
    looked = [
        "debian 12",
        "3.11.2",
        "installed adduser 3.134 all",
        "config-files gone 1.0 amd64",
        "installed a+b 1:2~3 amd64",
    ]
    bill = image_bill("enginehouse/python:3.11", looked)
    assert mistake_in(bill) is None
    assert json.loads(bill)["metadata"]["component"]["name"] == "enginehouse/python:3.11"
    assert {one for one in _purls(bill) if one} == {
        "pkg:generic/python@3.11.2",
        "pkg:deb/debian/adduser@3.134?arch=all&distro=debian-12",
        "pkg:deb/debian/a%2Bb@1:2~3?arch=amd64&distro=debian-12",
    }


def test_what_is_no_bill_is_noticed() -> None:
    assert mistake_in('{"bomFormat": "CycloneDX", "specVersion": "1.5", "components": [{"name": "x"}]}')
