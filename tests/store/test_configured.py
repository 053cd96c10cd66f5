"""Where settings come from. What depends on the state of a process runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ratelimit_core import CircuitBreaker, ConfigurationError, Limiter, configure, get_backend
from ratelimit_core.backends import Backend, MemoryBackend, MultiBackend, RedisBackend
from ratelimit_core.config import sources
from ratelimit_core.store import configured
from tests.servers import ROOT, free_port


class Custom(MemoryBackend):
    """What a dotted path may name."""


def fails() -> None:
    """Makes no backend."""


def fresh(code: str, environ: Mapping[str, str] | None = None, path: Path | None = None) -> Any:
    """What ``code`` left in ``answer``, in a new interpreter."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RATELIMIT_", "DJANGO_"))}
    search = os.pathsep.join(str(place) for place in (ROOT, path) if place)
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{dedent(code)}\nprint(json.dumps(answer))"],
        env={**clean, "PYTHONPATH": search, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("RATELIMIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sources, "sources", [])
    return monkeypatch


# The order

ORDER = """
    from ratelimit_core import configure
    from ratelimit_core.config import sources
    answer = []
    def see(): answer.append(sources.setting("key_prefix"))
    configure(key_prefix="configured")
    sources.add_source({"key_prefix": "source"}.get)
    see()
    configure(key_prefix=None)
    see()
    sources.sources.clear()
    see()
"""


def test_configure_then_a_source_then_django_then_the_environment_then_the_default(tmp_path: Path) -> None:
    (tmp_path / "site_settings.py").write_text("RATELIMIT_KEY_PREFIX = 'django'")
    django = {"DJANGO_SETTINGS_MODULE": "site_settings"}
    environment = {"RATELIMIT_KEY_PREFIX": "environment"}
    assert fresh(ORDER, {**django, **environment}, tmp_path) == ["configured", "source", "django"]
    assert fresh(ORDER, environment) == ["configured", "source", "environment"]
    assert fresh(ORDER) == ["configured", "source", "resilient"]


def test_django_that_was_configured_by_hand_counts_and_unconfigured_does_not() -> None:
    code = """
        import django.conf
        from ratelimit_core.config import sources
        before = sources.setting("key_prefix")
        django.conf.settings.configure(RATELIMIT_KEY_PREFIX="by hand")
        answer = [before, sources.setting("key_prefix")]
    """
    assert fresh(code) == ["resilient", "by hand"]


def test_the_backend_of_the_environment_is_used() -> None:
    code = """
        from ratelimit_core import get_backend
        answer = type(get_backend()).__name__
    """
    assert fresh(code, {"RATELIMIT_BACKEND": "redis://127.0.0.1:1/0"}) == "RedisBackend"
    assert fresh(code, {"RATELIMIT_BACKEND": ""}) == "MemoryBackend"
    assert fresh(code) == "MemoryBackend"


def test_the_environment_holds_text() -> None:
    code = """
        from ratelimit_core import CircuitBreaker
        from ratelimit_core.config import sources
        answer = [sources.setting("store_retry_interval"), CircuitBreaker("b").config.failure_threshold]
    """
    environ = {"RATELIMIT_STORE_RETRY_INTERVAL": "2.5", "RATELIMIT_CIRCUIT_BREAKER": '{"failure_threshold": 9}'}
    assert fresh(code, environ) == [2.5, 9]


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["1", "true", "yes", "on", "True", " YES "], True), (["0", "false", "no", "off", "False"], False)],
)
def test_yes_and_no_have_many_words(clean: pytest.MonkeyPatch, words: list[str], meant: bool) -> None:
    for word in words:
        clean.setenv("RATELIMIT_ENABLE", word)
        assert sources.setting("enable") is meant
    for number in (meant, int(meant)):
        assert sources.checked("enable", number) is meant


# Nothing is imported that is not used


def test_importing_the_package_imports_no_framework_and_no_driver() -> None:
    code = """
        import ratelimit_core
        answer = sorted({name.partition(".")[0] for name in sys.modules} & {"django", "celery", "kombu", "redis"})
        answer += sorted(name for name in sys.modules if name.startswith("ratelimit_core."))
    """
    assert fresh(code) == []


def test_using_the_core_in_memory_imports_neither() -> None:
    code = """
        from ratelimit_core import Backoff, CircuitBreaker, Limiter, circuit_breaker_registry, parse_retry_after
        with Limiter("10/s", key="k", concurrency=1), CircuitBreaker("b", failure_threshold=3): pass
        Backoff().delay(1), parse_retry_after(ValueError())
        answer = sorted({name.partition(".")[0] for name in sys.modules} & {"django", "celery", "kombu", "redis"})
    """
    assert fresh(code) == []


def test_using_redis_imports_no_django_and_no_celery(valkey_url: str) -> None:
    code = """
        from ratelimit_core import Limiter
        assert Limiter("10/s", key="imports").hit()
        answer = sorted({name.partition(".")[0] for name in sys.modules} & {"django", "celery", "kombu", "redis"})
    """
    assert fresh(code, {"RATELIMIT_BACKEND": valkey_url}) == ["redis"]


# configure()


def test_what_is_not_named_keeps_its_value(clean: pytest.MonkeyPatch) -> None:
    configure(key_prefix="mine")
    configure(store_retry_interval=1)
    assert (sources.setting("key_prefix"), sources.setting("store_retry_interval")) == ("mine", 1.0)


def test_a_backend_is_made_when_it_is_named_or_else_at_its_first_use(clean: pytest.MonkeyPatch) -> None:
    made: list[Backend] = []

    class Counted(MemoryBackend):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    clean.setattr(sys.modules[__name__], "Custom", Counted)
    clean.setenv("RATELIMIT_BACKEND", f"{__name__}.Custom")
    configure(store_retry_interval=1)
    assert not made
    assert get_backend() is made[0]
    configure(backend=f"{__name__}.Custom")
    assert len(made) == 2


def test_a_backend_may_be_an_object_a_url_or_a_dotted_path(clean: pytest.MonkeyPatch) -> None:
    own = MemoryBackend()
    for backend, kind in (
        (own, MemoryBackend),
        ("memory://", MemoryBackend),
        ("redis://localhost/1", RedisBackend),
        ("rediss://localhost/1", RedisBackend),
        ("unix:///run/redis.sock", RedisBackend),
        ("ratelimit_core.backends.memory.MemoryBackend", MemoryBackend),
        (f"{__name__}.Custom", Custom),
    ):
        configure(backend=backend)
        assert type(get_backend()) is kind
        assert get_backend() is get_backend()
    configure(backend=own)
    assert get_backend() is own


def test_of_one_backend_and_several_the_first_source_that_has_either_says_which(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("RATELIMIT_BACKEND", "redis://127.0.0.1:1/0")
    configure(backends=[{"type": "memory"}])
    assert type(get_backend()) is MultiBackend
    configure(backends=None)
    assert type(get_backend()) is RedisBackend


def test_options_reach_the_backend(clean: pytest.MonkeyPatch) -> None:
    configure(backend="memory://", backend_options={"max_keys": 1})
    limiter = Limiter("1/h", key="k")
    assert limiter.hit(key="a")
    assert limiter.hit(key="b")
    assert limiter.hit(key="a")


def test_the_prefix_keeps_two_applications_apart(clean: pytest.MonkeyPatch, valkey_url: str) -> None:
    for prefix in ("one", "two", "one:two", ""):
        configure(backend=valkey_url, key_prefix=prefix)
        assert Limiter("1/h", key="k").hit()
        assert not Limiter("1/h", key="k").hit()
    for prefix in ("one", "two", "one:two", ""):
        configure(key_prefix=prefix)
        get_backend().clear()
        get_backend().close()


def test_guards_that_have_asked_a_store_keep_it(clean: pytest.MonkeyPatch) -> None:
    configure(backend=MemoryBackend())
    limiter, late = Limiter("1/h", key="k"), Limiter("1/h", key="k")
    assert limiter.hit()
    configure(backend=MemoryBackend())
    assert not limiter.hit()
    assert late.hit()


def test_defaults_for_every_breaker(clean: pytest.MonkeyPatch) -> None:
    configure(circuit_breaker={"failure_threshold": 2, "recovery_timeout": 7})
    config = CircuitBreaker("defaulted", recovery_timeout=9).config
    assert (config.failure_threshold, config.recovery_timeout) == (2, 9)


def test_the_store_of_a_backend_is_made_once_even_by_many_threads(clean: pytest.MonkeyPatch) -> None:
    made: list[Backend] = []

    class Counted(MemoryBackend):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    clean.setattr(sys.modules[__name__], "Custom", Counted)
    sources.explicit["backend"] = f"{__name__}.Custom"
    stores: list[object] = []
    threads = [threading.Thread(target=lambda: stores.append(configured.get_store())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len({id(store) for store in stores}) == 1
    assert configured.get_store(made[0]) is configured.get_store()


# What bad input gets


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"backnd": "memory://"}, "did you mean 'backend'?"),
        ({"keyprefix": "x"}, "did you mean 'key_prefix'?"),
        ({"zzz": 1}, "the known options are: algorithm, backend, backend_options"),
        *(({"backend": nonsense}, "known are memory://") for nonsense in ("", "redis:", "mongodb://x", "..a")),
        *(({"backend": nonsense}, "known are memory://") for nonsense in ("redis:/127.0.0.1", "REDIS://x", "a b.c")),
        *(
            ({"backend": nonsense}, "a URL, a name, a dotted path or a Backend")
            for nonsense in (5, object, ["memory://"])
        ),
        *(({"backend": nonsense}, "can't be imported") for nonsense in ("no.such.Thing", "os.nothing", "os.path.x.y")),
        *(
            ({"backend": nonsense}, "not a Backend|not callable|argument")
            for nonsense in ("os.path", "os.getcwd", "os.stat")
        ),
        ({"backend": f"{__name__}.fails"}, "made a NoneType, which is not a Backend"),
        *(({"backend": f"redis://{nonsense}"}, "redis://") for nonsense in ("h:port", "h:99999", "[::1")),
        ({"backend": "redis://x", "backend_options": {"socket_timeot": 1}}, "socket_timeot"),
        ({"backend": "memory://", "backend_options": {"max": 1}}, "max"),
        ({"backend_options": "max_keys=1"}, "backend_options='max_keys=1' should be a dictionary"),
        ({"circuit_breaker": 5}, "circuit_breaker=5 should be a dictionary"),
        ({"key_prefix": 5}, "key_prefix=5 should be a string"),
        *(
            ({"store_retry_interval": nonsense}, "store_retry_interval=")
            for nonsense in (0, -1, "soon", float("nan"), object)
        ),
    ],
    ids=lambda value: f"{value!a:.60}",
)
def test_nonsense_is_refused_and_changes_nothing(clean: pytest.MonkeyPatch, given: dict[str, Any], says: str) -> None:
    before = MemoryBackend()
    configure(backend=before, key_prefix="kept")
    with pytest.raises(ConfigurationError, match=says):
        configure(**given)
    assert get_backend() is before
    assert sources.setting("key_prefix") == "kept"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATELIMIT_BACKEND", "mongodb://x"),
        ("RATELIMIT_BACKEND_OPTIONS", "{nonsense"),
        ("RATELIMIT_BACKEND_OPTIONS", "[]"),
        ("RATELIMIT_CIRCUIT_BREAKER", "5"),
        ("RATELIMIT_STORE_RETRY_INTERVAL", "soon"),
    ],
)
def test_nonsense_in_the_environment_is_refused_by_name(clean: pytest.MonkeyPatch, name: str, value: str) -> None:
    clean.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name.removeprefix("RATELIMIT_").lower()):
        CircuitBreaker("b", failure_threshold=1).acquire()


def test_a_password_is_not_shown(clean: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configure(backend="redis://user:s3cret@host:port", backend_options={"password": "hunter2"})
    assert "s3cret" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "redis://***@host:port" in str(refused.value)


# A server that isn't there


def test_an_unreachable_redis_is_no_error_before_and_local_state_at_the_first_question(
    clean: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure(backend=f"redis://127.0.0.1:{free_port()}/0")
    limiter = Limiter("2/h", key="k")
    breaker = CircuitBreaker("b", failure_threshold=2)
    decisions = [limiter.hit() for _ in range(3)]
    assert [(decision.allowed, decision.local) for decision in decisions] == [(True, True), (True, True), (False, True)]
    for _ in range(2):
        breaker.acquire().failure()
    assert breaker.state == "open"
    assert [record.message.startswith("the shared store is unavailable") for record in caplog.records] == [True, False]
    get_backend().close()


def test_entries_that_nobody_asks_for_may_be_wrong(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("RATELIMIT_BACKENDS", '[{"name": "x", "typ": "memory"}]')
    configure(backend="memory://")
    assert isinstance(get_backend(), MemoryBackend)
    with pytest.raises(ConfigurationError, match="'type'"):
        configure(backend="multi")
