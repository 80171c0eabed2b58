"""An extra endpoint's path means one thing to every part on its way, or is refused."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.break_ins import attempt

from enginehouse.contracts.calls import answer_headers, check_call_path, encoded_path, request_headers
from enginehouse.contracts.errors import RequestError


@attempt("traverses to other routes of a runner by the path of an extra endpoint", layer="paths are read in one way")
@pytest.mark.parametrize(
    "raw",
    [
        *("predict", "predict/", "predict/x", "PREDICT", "%70redict", "predict/batch", "healthz", "Healthz"),
        *("..", "a/../predict", "a/..", "./predict", "%2e%2e/predict", "a/%2e/b", "a//b", "/predict", "a/", "//host/x"),
        *("%252e%252e/x", "a%2fb", "a%2Fb", "a%5cb", "a\\b", "a%00b", "a%0d%0aX: y", "a%3fb", "a%23b", "a;b=1/c"),
        *("http://host/x", "%ff", "%", "%zz", "a%"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(raw: str) -> None:
    with pytest.raises(RequestError):
        check_call_path(raw)


@pytest.mark.parametrize(
    "raw", ["", "info", "v1/stats", "a%20b/%C3%A4", "a:b@c,d", "predictions", "x/predict", "x/healthz"]
)
def test_plain_paths_pass_and_are_written_again_as_one(raw: str) -> None:
    path = check_call_path(raw)
    assert path == unquote(raw)
    assert check_call_path(encoded_path(path).removeprefix("/")) == path


@given(st.text(max_size=40))
def test_whatever_passes_is_decoded_once_and_has_no_segment_of_its_own(text: str) -> None:
    raw = quote(text, safe="/%", errors="surrogatepass")
    try:
        path = check_call_path(raw)
    except RequestError:
        return
    again = encoded_path(path)
    assert unquote(again) == "/" + path
    assert again.count("/") == raw.count("/") + 1
    assert not {"", ".", ".."} & set(path.split("/")) or not path


@attempt("takes the caller's key, or sets cookies on the gateway's origin", layer="headers are filtered both ways")
def test_an_engine_sees_no_credentials_and_a_caller_none_of_what_acts_on_our_origin() -> None:
    given_headers = [
        *(("Authorization", "Bearer k"), ("Cookie", "a=b"), ("dapr-api-token", "t"), ("Dapr-App-Id", "x")),
        *(
            ("Connection", "close, X-Once"),
            ("X-Once", "1"),
            ("Transfer-Encoding", "chunked"),
            ("X-Forwarded-For", "1.2.3.4"),
        ),
        *(("X-Enginehouse-Answer", "engine"), ("Content-Type", "text/x"), ("X-Mine", "1"), ("If-None-Match", '"1"')),
    ]
    assert request_headers(given_headers) == [("content-type", "text/x"), ("x-mine", "1"), ("if-none-match", '"1"')]
    answered = [
        ("Set-Cookie", "a=b"),
        ("Location", "//evil"),
        ("X-Accel-Redirect", "/x"),
        ("Content-Type", "text/html"),
    ]
    assert answer_headers(answered) == [("content-type", "text/html")]
