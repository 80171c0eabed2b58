"""Two things never share a name, and every name shows its owner."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.support.break_ins import attempt

from enginehouse.contracts import names
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.names import EngineId

word = st.from_regex(names.NAME_PATTERN, fullmatch=True).filter(lambda text: 3 <= len(text) <= 24)


def _allowed(name: str) -> bool:
    try:
        names.check_name("tenant", name)
    except InvalidName:
        return False
    return True


name = word.filter(_allowed)
# Few letters, so that look-alikes such as ab-c and a-bc occur often.
lookalike = st.text("ab-", min_size=3, max_size=6).filter(_allowed)
engine_id = st.builds(EngineId, name, name) | st.builds(EngineId, lookalike, lookalike)

OF_AN_ENGINE: list[Callable[[str], str]] = [
    lambda engine: names.app_id(engine, "a"),
    lambda engine: names.app_id(engine, "b"),
    names.job_topic,
    names.trial_topic,
    names.jobs_component,
    names.results_component,
    names.engine_user,
]
OF_A_TENANT: list[Callable[[str], str]] = [
    names.requests_topic,
    names.finished_topic,
    names.requests_component,
    names.tenant_component,
    names.namespace,
]
STATIC = {
    names.GATEWAY_APP,
    names.GATEWAY_JOBS_COMPONENT,
    names.COMPLETIONS_COMPONENT,
    names.DEAD_LETTERS_COMPONENT,
    names.NOBODY,
}


def _engine_names(engine: EngineId) -> Iterator[str]:
    return (compute(str(engine)) for compute in OF_AN_ENGINE)


@attempt("chooses a name so that its topic or key is another's", layer="names are computed, and never meet")
@given(engine_id, engine_id)
def test_two_engines_share_no_name_of_any_kind(one: EngineId, other: EngineId) -> None:
    assume(one != other)
    assert str(one) != str(other)
    assert not set(_engine_names(one)) & set(_engine_names(other))


@given(engine_id)
def test_the_names_of_one_engine_differ_from_each_other(engine: EngineId) -> None:
    computed = list(_engine_names(engine))
    assert len(set(computed)) == len(computed)


@given(engine_id, name)
def test_components_of_engines_tenants_and_the_core_never_meet(engine: EngineId, tenant: str) -> None:
    engine_components = {names.jobs_component(str(engine)), names.results_component(str(engine))}
    tenant_components = {names.requests_component(tenant), names.tenant_component(tenant)}
    assert not engine_components & tenant_components
    assert not (engine_components | tenant_components) & STATIC


@given(engine_id, name)
def test_users_of_the_broker_never_meet(engine: EngineId, tenant: str) -> None:
    users = [names.engine_user(str(engine)), names.tenant_component(tenant), names.GATEWAY_USER, "default"]
    assert len(set(users)) == len(users)


@given(engine_id, name)
def test_topics_and_apps_never_meet_those_of_the_core(engine: EngineId, tenant: str) -> None:
    topics = {names.job_topic(str(engine)), names.trial_topic(str(engine))}
    topics |= {names.requests_topic(tenant), names.finished_topic(tenant)}
    assert len(topics) == 4
    assert not topics & {names.COMPLETIONS_TOPIC, names.DEAD_LETTERS_TOPIC, names.AUDIT_TOPIC}
    assert not set(names.app_ids(str(engine))) & STATIC


@given(name, name)
def test_two_tenants_share_no_name_of_any_kind(one: str, other: str) -> None:
    assume(one != other)
    assert not {compute(one) for compute in OF_A_TENANT} & {compute(other) for compute in OF_A_TENANT}


@given(engine_id)
def test_an_engine_id_is_read_back_from_its_text(engine: EngineId) -> None:
    assert EngineId.parse(str(engine)) == engine


@given(engine_id)
def test_an_engine_is_read_back_from_its_results_component(engine: EngineId) -> None:
    assert names.engine_of_results_component(names.results_component(str(engine))) == str(engine)
    assert names.engine_of_results_component(names.jobs_component(str(engine))) is None


@given(st.text())
def test_no_text_makes_reading_a_name_fail_otherwise_than_by_its_error(text: str) -> None:
    names.engine_of_results_component(text)
    try:
        parsed = EngineId.parse(text)
    except InvalidName:
        return
    assert str(parsed) == text


@given(engine_id)
def test_names_fit_kubernetes_and_dapr(engine: EngineId) -> None:
    for computed in [*_engine_names(engine), names.namespace(engine.tenant)]:
        assert len(computed) <= 63
        assert "||" not in computed
        assert computed.replace(".", "-").replace("-", "").isalnum()


@attempt("takes a name that is reserved or means another's", layer="names have one form, some are reserved")
@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ab",
        "a" * 25,
        "Acme",
        "1abc",
        "a--b",
        "abc-",
        "-abc",
        "a_b",
        "a.b",
        "abc\n",
        "ä-bc",
        "kube-x",
        "dapr",
        "daprd",
        "xn--a",
        "gateway",
        "registry",
        "results",
        "none",
        "enginehouse-x",
        "a b",
        "abc/../d",
    ],
)
def test_bad_names_are_refused_with_the_rule(bad: str) -> None:
    with pytest.raises(InvalidName, match=r"not a valid name|reserved"):
        names.check_name("engine", bad)


def test_a_bare_name_means_ones_own_engine_first_then_the_shared_one() -> None:
    assert list(map(str, names.resolve_candidates("ocr", "acme"))) == ["acme--ocr", "shared--ocr"]
    assert list(map(str, names.resolve_candidates("ocr", "shared"))) == ["shared--ocr"]
    assert list(map(str, names.resolve_candidates("globex--ocr", "acme"))) == ["globex--ocr"]


def test_job_ids_are_recognised_and_sort_by_age() -> None:
    made = [names.new_job_id() for _ in range(1_000)]
    assert made == sorted(made)
    assert len(set(made)) == 1_000
    assert all(map(names.is_job_id, made))


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 36, "018f4d5e-0000-4000-8000-000000000000", "01890a5d-ac96-7b2a-8c4e-0123456789ab\n"]
)
def test_other_texts_are_no_job_ids(text: str) -> None:
    assert not names.is_job_id(text)
