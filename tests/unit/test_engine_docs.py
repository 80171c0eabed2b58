"""An engine's page and document are ours: whatever the engine says in them is text."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, STANDARD, gateway_world
from tests.support.problems import problem_of

from enginehouse.contracts.engine import EngineCard
from enginehouse.gateway.engines.engine_document import engine_document
from enginehouse.gateway.http.routes.engine_docs import engine_page

MARKUP = (
    "</code></td><script>alert(1)</script><img src=x onerror=alert(1)>\" onload='x' &lt;b&gt; $(reboot) `id` '; id '"
)


def card(text: str) -> EngineCard:
    """Return a card that has `text` wherever an engine can put one."""
    schema = {
        "type": "object",
        "title": text,
        "description": text,
        "required": ["a", text],
        "properties": {
            "a": {"type": text, "description": text, "default": text},
            text: {"$ref": "#/$defs/Inner"},
            "b": {"type": ["string", text]},
        },
        "$defs": {"Inner": {"type": "string", "description": text, "examples": [text]}},
        "x-logo": text,
    }
    operation = {
        "summary": text,
        "description": text,
        "operationId": text,
        "externalDocs": {"url": text},
        "servers": [{"url": text}],
        "parameters": [{"name": text, "in": "query", "description": text, "schema": {"$ref": text}}, text],
        "requestBody": {"content": {text: {"schema": {"$ref": "#/components/schemas/Inner"}}}},
        "responses": {text: {"description": text, "content": text}, "200": text},
    }
    paths: dict[str, Any] = {"/stats": {"get": operation, "x": text}, f"/{text}": {"post": operation}, text: operation}
    paths |= {"/predict": {"post": operation}, "/healthz": {"get": operation}, "/a/../b": {"get": operation}}
    return EngineCard(
        engine=ECHO,
        slot="a",
        version=text,
        description=text,
        input_schema=schema,
        output_schema={"type": text},
        example={text: text},
        openapi={"paths": paths, "info": text, "components": {"schemas": {"Inner": schema, text: schema}}},
    )


class Tags(HTMLParser):
    """Notes the tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(f"{tag} {sorted(name for name, _ in attrs)}")

    def handle_data(self, data: str) -> None:
        self.text += data


PLAIN = Tags(engine_page(ECHO, card("plain"), with_calls=True))


@attempt("puts markup into its page of documentation", layer="texts are never markup")
@given(st.one_of(st.just(MARKUP), st.text(st.sampled_from("<>&\"'/=! scriptaonu\n\u202e\x00"), max_size=60)))
def test_no_text_of_an_engine_becomes_markup(text: str) -> None:
    page = engine_page(ECHO, card(text), with_calls=True)
    assert Tags(page).found <= PLAIN.found
    assert "\u202e" not in page
    assert "\x00" not in page


def test_the_page_shows_fields_example_calls_and_endpoints() -> None:
    for expected in (
        "plain",
        "required",
        "curl",
        "enginehouse submit acme--echo",
        "client.run(",
        "GET /v1/engines/acme--echo/call/stats",
    ):
        assert expected in PLAIN.text
    shown = Tags(engine_page(ECHO, card(MARKUP), with_calls=True)).text
    assert MARKUP in shown
    assert "call/stats" not in engine_page(ECHO, card("plain"), with_calls=False)


def walk(node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, list):
        return [found for one in node for found in walk(one)]
    if not isinstance(node, dict):
        return []
    return [*node.items(), *(found for one in node.values() for found in walk(one))]


def test_the_document_refers_to_itself_only_and_its_texts_are_no_markup() -> None:
    document = engine_document(ECHO, card(MARKUP), with_calls=True)
    schemas = document["components"]["schemas"]
    for key, value in walk(document):
        if key == "$ref" and isinstance(value, str):
            node: Any = document
            for part in value.removeprefix("#/").split("/"):
                node = node[part]
        if key in ("description", "summary", "title") and isinstance(value, str):
            assert "<" not in value
        assert key not in ("servers", "externalDocs", "operationId", "x-logo") or value == "submit"
    assert set(schemas) == {"Input", "Output", "engine.Inner"}
    calls = {path for path in document["paths"] if "/call/" in path}
    assert calls == {f"/v1/engines/{ECHO}/call/stats"}
    assert not any("/call/" in path for path in engine_document(ECHO, card("x"), with_calls=False)["paths"])


@pytest.mark.parametrize("text", ["x", MARKUP])
async def test_both_are_served_to_those_who_may_use_the_engine(tmp_path: Path, text: str) -> None:
    fields = {name: value for name, value in card(text).model_dump().items() if name not in ("engine", "slot")}
    if text == MARKUP:
        fields["version"] = "v1"
    async with gateway_world(tmp_path, cards={ECHO: fields}) as world:
        page = await world.client().get(f"/v1/engines/{ECHO}/docs")
        assert page.status_code == 200
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self';")
        assert Tags(page.text).found <= PLAIN.found
        document = await world.client().get("/v1/engines/echo/openapi.json")
        assert document.json()["info"]["title"] == ECHO
        problem_of(await world.client("umbra").get(f"/v1/engines/{ECHO}/openapi.json"), 404, "ENGINE_DOES_NOT_EXIST")
        problem_of(await world.client().get(f"/v1/engines/{STANDARD}/openapi.json"), 404, "ENGINE_DOES_NOT_EXIST")


async def test_a_browser_types_the_key_into_a_form(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, cards={ECHO: {"description": "Echoes."}}) as world:
        client = world.client()
        del client.headers["Authorization"]
        form = await client.get(f"/v1/engines/{ECHO}/docs")
        assert (form.status_code, "Echoes." in form.text, 'type="password"' in form.text) == (200, False, True)
        wrong = await client.post(f"/v1/engines/{ECHO}/docs", data={"key": "<script>"})
        assert wrong.status_code == 401
        assert "script" not in wrong.text
        other = await client.post(f"/v1/engines/{ECHO}/docs", data={"key": world.keys["umbra"]})
        assert (other.status_code, "Echoes." in other.text) == (404, False)
        shown = await client.post(f"/v1/engines/{ECHO}/docs", data={"key": world.keys["acme"]})
        assert (shown.status_code, "Echoes." in shown.text) == (200, True)
        style = await client.get("/v1/engines/docs.css")
        assert style.headers["content-type"].startswith("text/css")
