"""The fixtures in suites as people have them: of a Django project, of a Celery app, and of async code."""

from __future__ import annotations

import importlib.util

import pytest

from tests import servers
from tests.servers import ROOT

pytestmark = pytest.mark.slow

pytest_plugins = ["pytester"]

APP = """
    from ratelimit_core import CircuitBreaker, Limiter
    from ratelimit_core.circuit_breaker import circuit_breaker

    breaker = CircuitBreaker("payments", failure_threshold=2, recovery_timeout=30)  # made when it is imported
    supplier = Limiter("2/m", key="supplier", local_quota=2)


    @breaker
    def pay(up):
        if not up:
            raise ConnectionError
        return "paid"


    @circuit_breaker("search", failure_threshold=1)
    async def search(up):
        return pay(up)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A suite that loads our plugin, and no other that happens to be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("RATELIMIT_BACKEND", "redis://127.0.0.1:1")  # what is isolated does not go there
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{pytester.path}", prepend=":")
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    pytester.makeini("[pytest]\nusefixtures = resilience_reset\naddopts = -p ratelimit_core.pytest_plugin\n")
    pytester.makepyfile(shop=APP)
    return pytester


def test_each_test_begins_with_nothing_known_also_of_what_was_made_at_import(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from ratelimit_core import CircuitBreaker, circuit_breaker_registry, configure, get_backend
        from shop import breaker, pay, supplier


        @pytest.mark.parametrize("time", range(3))
        def test_an_outage(time):
            assert pay(True) == "paid" and breaker.stats["successes"] == 1
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    pay(False)
            assert breaker.state == "open"


        @pytest.mark.parametrize("limit", ["1/s", "2/s"])
        def test_a_limit_is_there_to_be_used(limit):
            assert [supplier.hit().allowed for _ in range(3)] == [True, True, False]


        @pytest.mark.parametrize("threshold", [3, 4])
        def test_what_a_test_defines_ends_with_it(threshold):
            assert circuit_breaker_registry.get("mine") is None
            CircuitBreaker("mine", failure_threshold=threshold)
            configure(key_prefix=f"test-{threshold}")
            assert not get_backend().shared
            assert CircuitBreaker("payments").config.failure_threshold == 2
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=7)


def test_time_passes_when_it_is_told_to(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import time

        import pytest
        from ratelimit_core.testing import breaker_open
        from shop import breaker, pay, supplier


        def test_an_outage_of_half_an_hour(resilience_clock):
            began = time.monotonic()
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    pay(False)
            resilience_clock.advance(29.9)
            assert breaker.state == "open"
            resilience_clock.advance(0.2)
            assert pay(True) == "paid" and breaker.state == "closed"
            with breaker_open("payments", retry_after=1800) as same:
                assert same.get_status()["next_attempt_time"] == pytest.approx(resilience_clock.now() + 1800)
                resilience_clock.advance(1801)
                assert pay(True) == "paid"
            assert time.monotonic() - began < 10


        def test_a_limit(resilience_clock):
            assert [supplier.hit().allowed for _ in range(3)] == [True, True, False]
            resilience_clock.advance(60)
            assert supplier.hit().allowed


        def test_time_goes_on_by_itself_elsewhere():
            from ratelimit_core._util import clock
            now = clock.monotonic(), clock.wall()
            while now == (clock.monotonic(), clock.wall()):
                pass
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=3)


def test_a_breaker_is_in_the_state_that_a_test_wants(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import pytest
        from ratelimit_core import CircuitBreakerError
        from ratelimit_core.testing import breaker_closed, breaker_half_open, breaker_open
        from shop import breaker, pay


        def test_open():
            with breaker_open("payments"), pytest.raises(CircuitBreakerError) as refused:
                pay(True)
            assert 29 < refused.value.retry_after <= 30
            assert pay(True) == "paid"


        @pytest.mark.parametrize(("up", "state"), [(True, "closed"), (False, "open")])
        @pytest.mark.parametrize("frozen", [True, False])
        def test_half_open(up, state, frozen, request):
            if frozen:
                request.getfixturevalue("resilience_clock")
            with breaker_half_open("payments"):
                assert breaker.state == "half_open"
                try:
                    pay(up)
                except ConnectionError:
                    pass
                assert breaker.state == state
            assert breaker.state == "closed"


        def test_closed():
            with breaker_closed("payments"):
                for _ in range(9):
                    with pytest.raises(ConnectionError):
                        pay(False)
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=6)


def test_async(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import asyncio

        import pytest
        from ratelimit_core import CircuitBreakerError
        from ratelimit_core.testing import breaker_open
        from shop import search


        def test_a_coroutine(resilience_clock):
            async def outage():
                with pytest.raises(ConnectionError):
                    await search(False)
                with pytest.raises(CircuitBreakerError):
                    await search(True)
                resilience_clock.advance(60)
                return await search(True)

            assert asyncio.run(outage()) == "paid"
            with breaker_open("search"), pytest.raises(CircuitBreakerError):
                asyncio.run(search(True))
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)


TASKS = """
    import shop
    from celery import Celery
    from ratelimit_core import CircuitBreaker
    from resilient_tasks import breaker_task, rate_limited_task

    app = Celery("shop", broker="memory://", backend="cache+memory://")
    app.conf.worker_hijack_root_logger = False


    @breaker_task(breaker="payments", name="charge", retry_for=(ConnectionError,), on_open="defer")
    def charge(order, up=True):
        return shop.pay.__wrapped__(up)


    @rate_limited_task(rate="1/m", name="report")
    def report(page):
        return page


    @breaker_task(breaker="payments", name="mail", on_open="skip", skip_result="skipped")
    def mail():
        return "sent"
"""


def test_tasks_that_are_put_off(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        tasks=TASKS,
        test_tasks="""
        import pytest
        from ratelimit_core import CircuitBreakerError, RateLimitExceeded
        from ratelimit_core.testing import breaker_open
        from resilient_tasks.testing import assert_deferred, recorded
        from tasks import app, charge, mail, report

        app.set_default()


        def test_while_the_breaker_is_open(resilience_clock):
            with breaker_open("payments", retry_after=120):
                put_off = assert_deferred(charge, 7)
            assert (put_off.task, put_off.args, put_off.kwargs) == ("charge", (7,), {})
            assert isinstance(put_off.reason, CircuitBreakerError) and put_off.countdown >= 120


        def test_when_the_limit_is_reached(resilience_clock):
            assert report(1) == 1
            put_off = assert_deferred(report, page=2)
            assert isinstance(put_off.reason, RateLimitExceeded) and 59 < put_off.countdown < 63  # its slot


        def test_by_the_failure_that_opens_the_breaker():
            with pytest.raises(AssertionError, match="retried, not deferred"):
                assert_deferred(charge, 1, up=False)
            assert "CircuitBreakerError" in repr(assert_deferred(charge, 2, up=False).reason)


        def test_what_is_not_put_off():
            with pytest.raises(AssertionError, match="but returned 'paid'"):
                assert_deferred(charge, 1)
            with breaker_open("payments"), pytest.raises(AssertionError, match="but returned 'skipped'"):
                assert_deferred(mail)
            with pytest.raises(TypeError, match="protected task"):
                assert_deferred(app.tasks["celery.chord"])


        @pytest.fixture
        def eager():
            app.conf.task_always_eager = True
            yield
            app.conf.task_always_eager = False


        def test_eagerly(eager):
            with recorded() as seen:
                assert report.delay(1).get() == 1
                assert isinstance(report.delay(2).result, RateLimitExceeded)
                with breaker_open("payments"):
                    assert isinstance(charge.delay(3).result, CircuitBreakerError)
                    assert mail.delay().get() == "skipped"
                    assert_deferred(charge, 4)
            assert [type(refusal) for refusal in seen.refusals] == [RateLimitExceeded, CircuitBreakerError]
            assert [put_off.args for put_off in seen.deferrals] == [(4,)]
        """,
    )
    suite.runpytest_subprocess().assert_outcomes(passed=5)


def test_celerys_own_fixtures(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import time

        import pytest
        from ratelimit_core.testing import breaker_open
        from resilient_tasks import breaker_task
        from resilient_tasks.testing import recorded


        @pytest.fixture
        def celery_config():
            return {
                "broker_url": "memory://",
                "broker_transport_options": {"polling_interval": 0.05},
                "result_backend": "cache+memory://",
            }


        def test_a_worker_in_a_thread(celery_app, celery_worker, resilience_clock):
            @celery_app.task
            def plain():
                return "plain"

            @breaker_task(breaker="payments", name="charge")
            def charge():
                return "charged"

            celery_worker.reload()
            with recorded() as seen, breaker_open("payments", retry_after=1):
                assert plain.delay().get(timeout=10) == "plain"
                result = charge.delay()
                while not seen.deferrals:  # pytest-timeout ends it
                    time.sleep(0.01)
                resilience_clock.advance(1)  # for the breaker; Celery's own second passes as ever
                assert result.get(timeout=10) == "charged"
            assert [put_off.task for put_off in seen.deferrals] == ["charge"]
        """
    )
    suite.runpytest_subprocess("-p", "celery.contrib.pytest").assert_outcomes(passed=1)


def test_pytest_django(suite: pytest.Pytester) -> None:
    if importlib.util.find_spec("pytest_django") is None:
        servers.missing("pytest-django is not installed")
    suite.makepyfile(
        site_settings="""
        SECRET_KEY = "a test's"
        ROOT_URLCONF = "site_urls"
        INSTALLED_APPS = ["ratelimit_core.django"]
        MIDDLEWARE = ["ratelimit_core.django.middleware.ResilienceMiddleware"]  # makes a 503 of a refusal
        ALLOWED_HOSTS = ["testserver"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        RATELIMIT_BACKEND = "redis://127.0.0.1:1"
        USE_TZ = True
        """,
        site_urls="""
        from django.http import HttpResponse
        from django.urls import path
        from ratelimit_core import rate_limit
        from ratelimit_core.circuit_breaker import circuit_breaker
        from shop import pay


        @rate_limit(key="ip", rate="2/m")
        def limited(request):
            return HttpResponse("fine")


        @circuit_breaker("payments")
        def guarded(request):
            return HttpResponse("paid")


        urlpatterns = [path("limited", limited), path("guarded", guarded)]
        """,
        test_site="""
        import pytest
        from ratelimit_core.testing import breaker_open


        @pytest.mark.parametrize("time", range(2))
        def test_a_limit(client, resilience_clock, time):
            assert [client.get("/limited").status_code for _ in range(3)] == [200, 200, 429]
            resilience_clock.advance(60)
            assert client.get("/limited").status_code == 200


        def test_a_breaker(client):
            with breaker_open("payments", retry_after=20):
                response = client.get("/guarded")
            assert response.status_code == 503 and response["Retry-After"] == "20"
            assert client.get("/guarded").status_code == 200


        @pytest.mark.django_db
        def test_a_store_in_the_database(settings):
            from ratelimit_core import Limiter, get_backend
            from ratelimit_core.testing import frozen_time, isolated

            with isolated(backend="django-db://default"), frozen_time() as clock:
                assert get_backend().shared
                assert [Limiter("1/m", key="k").hit().allowed for _ in range(2)] == [True, False]
                clock.advance(60)
                assert Limiter("1/m", key="k").hit().allowed
        """,
    )
    result = suite.runpytest_subprocess("-p", "pytest_django.plugin", "--ds=site_settings")
    result.assert_outcomes(passed=4)


def test_nothing_is_imported_that_is_not_used(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        import sys


        def test_modules():
            import ratelimit_core.testing  # noqa: F401
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert not loaded & {"celery", "django", "kombu", "redis"}
        """
    )
    suite.runpytest_subprocess().assert_outcomes(passed=1)
    modules = "import ratelimit_core.testing, sys; assert not {'pytest', 'celery', 'django'} & set(sys.modules)"
    assert suite.runpython_c(modules).ret == 0
