from __future__ import annotations

from typing import Any

import pytest

from tests.django.operators.conftest import Checker, Site

RESILIENCE = "ratelimit_core.django.middleware.ResilienceMiddleware"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
HANDLERS = "tests.django.operators.site.handlers"

WRONG: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"RATELIMIT_BACKNED": "redis://"}, "E001", ["RATELIMIT_BACKNED is not", "Did you mean RATELIMIT_BACKEND?"]),
    ({"RATELIMIT_TRUST_PROXIES": []}, "E001", ["Did you mean RATELIMIT_TRUSTED_PROXIES?"]),
    ({"RATELIMIT_XYLOPHONE": 1}, "E001", ["RATELIMIT_XYLOPHONE is not", "Known settings are", "BACKEND"]),
    ({"RATELIMIT_ENABLE": "perhaps"}, "E002", ["RATELIMIT_ENABLE = 'perhaps' should be True or False"]),
    ({"RATELIMIT_ALGORITHM": "fixed"}, "E002", ["RATELIMIT_ALGORITHM = 'fixed'", "did you mean 'fixed_window'?"]),
    (
        {"RATELIMIT_FAIL_OPEN": "maybe"},
        "E002",
        ["RATELIMIT_FAIL_OPEN = 'maybe' should be True for on_store_failure='allow'"],
    ),
    ({"RATELIMIT_KEY_PREFIX": 5}, "E002", ["RATELIMIT_KEY_PREFIX = 5 should be a string"]),
    ({"RATELIMIT_MEMORY_MAX_KEYS": 0}, "E002", ["RATELIMIT_MEMORY_MAX_KEYS = 0 should be a whole number"]),
    ({"RATELIMIT_STORE_RETRY_INTERVAL": -1}, "E002", ["RATELIMIT_STORE_RETRY_INTERVAL = -1 should be seconds"]),
    ({"RATELIMIT_MULTI_BACKEND_STRATEGY": "random"}, "E002", ["one of 'first_healthy', 'round_robin'"]),
    ({"RATELIMIT_MULTI_BACKEND_STRATEGY": "first_helthy"}, "E002", ["did you mean 'first_healthy'?"]),
    ({"RATELIMIT_BACKEND_OPTIONS": 3}, "E002", ["RATELIMIT_BACKEND_OPTIONS = 3 should be a dictionary"]),
    ({"RATELIMIT_REDIS": "redis://:hidden@host/0"}, "E002", ["RATELIMIT_REDIS = 'redis://***@host/0'"]),
    ({"RATELIMIT_TRUSTED_PROXIES": 5}, "E002", ["RATELIMIT_TRUSTED_PROXIES = 5 should be a list of addresses"]),
    ({"RATELIMIT_RESPONSE_HANDLER": 5}, "E002", ["RATELIMIT_RESPONSE_HANDLER = 5 should be a function"]),
    ({"RATELIMIT_RESPONSE_HANDLER": "math.pi"}, "E002", ["RATELIMIT_RESPONSE_HANDLER = 3.14159", "a function"]),
    ({"RATELIMIT_RESPONSE_HANDLER": f"{HANDLERS}.of_nothing"}, "E002", ["of_nothing", "should take the request", "()"]),
    (
        {"RATELIMIT_EXCEPTION_HANDLER": f"{HANDLERS}.of_three"},
        "E002",
        ["of_three", "or two arguments", "more"],
    ),
    ({"RATELIMIT_RESPONSE_HANDLER": f"{HANDLERS}.asynchronous"}, "E002", ["should be a plain function"]),
    ({"RATELIMIT_EXCEPTION_HANDLER": "no.such"}, "E002", ["RATELIMIT_EXCEPTION_HANDLER", "No module named 'no'"]),
    ({"RATELIMIT_RESPONSE_HANDLER": f"{HANDLERS}.of_on"}, "E002", [f"did you mean '{HANDLERS}.of_one'?"]),
    (
        {"RATELIMIT_CIRCUIT_BREAKER": {"failure_treshold": 3}},
        "E003",
        ["RATELIMIT_CIRCUIT_BREAKER: unknown option 'failure_treshold'; did you mean 'failure_threshold'?"],
    ),
    (
        {"RATELIMIT_CIRCUIT_BREAKER": {"recovery_timeout": "60"}},
        "E003",
        ["RATELIMIT_CIRCUIT_BREAKER: recovery_timeout='60' should be seconds"],
    ),
    (
        {"RATELIMIT_CIRCUIT_BREAKER": {"on_store_failure": "alow"}},
        "E003",
        ["RATELIMIT_CIRCUIT_BREAKER: on_store_failure='alow' should be one of", "did you mean 'allow'?"],
    ),
    ({"RATELIMIT_CIRCUIT_BREAKER": {"slow_call_rate": 0.5}}, "E003", ["slow_call_duration go together"]),
    ({"RATELIMIT_BACKENDS": [5]}, "E004", ["RATELIMIT_BACKENDS: 5 should", "'type'"]),
    (
        {"RATELIMIT_BACKENDS": [{"type": "memory", "option": {}}]},
        "E004",
        ["RATELIMIT_BACKENDS: 'memory': unknown option 'option'; did you mean 'options'?"],
    ),
    ({"RATELIMIT_BACKENDS": [{"type": "memori"}]}, "E004", ["'memori': known are memory://", "did you mean 'memory'?"]),
    (
        {"RATELIMIT_BACKENDS": [{"type": "django_smart_ratelimit.backends.redis_backend.RedisBackend"}]},
        "E004",
        ["did you mean 'ratelimit_core.backends.redis_backend.RedisBackend'?"],
    ),
    (
        {"RATELIMIT_BACKENDS": [{"type": "memory", "options": {"circuit_breaker_config": {"windo": 1}}}]},
        "E004",
        ["unknown option 'windo'; did you mean 'window'?"],
    ),
    (
        {"RATELIMIT_BACKENDS": [{"type": "memory"}, {"type": "memory"}]},
        "E004",
        ["two backends are named 'memory'; give each entry its own 'name'"],
    ),
    ({"RATELIMIT_TRUSTED_PROXIES": ["10.0.0.0/8", "10.0.0.0/33"]}, "E005", ["'10.0.0.0/33' should be an address"]),
    ({"RATELIMIT_TRUSTED_PROXIES": ["forwarded", "Unix"]}, "E005", ["'Unix' should be", "did you mean 'unix'?"]),
    ({"RATELIMIT_MIDDLEWARE": {"rats": {}}}, "E006", ["unknown option 'rats'; did you mean 'rate"]),
    ({"RATELIMIT_MIDDLEWARE": {"rate": "ten"}}, "E006", ["RATELIMIT_MIDDLEWARE: 'ten' is not a rate; write"]),
    (
        {"RATELIMIT_MIDDLEWARE": {"rate": "1/s", "on_store_failure": "deni"}},
        "E006",
        ["RATELIMIT_MIDDLEWARE: on_store_failure='deni' should be one of", "did you mean 'deny'?"],
    ),
    ({"RATELIMIT_MIDDLEWARE": {"rate": "1/s", "key": "usr"}}, "E006", ["'usr'; did you mean 'user'?"]),
    ({"RATELIMIT_BACKEND": 7}, "E007", ["RATELIMIT_BACKEND: backend=7 should be a URL"]),
    ({"RATELIMIT_BACKEND": "mongo://me:hidden@host/0"}, "E007", ["'mongo://***@host/0': known are"]),
    ({"RATELIMIT_BACKEND": "no.such.Backend"}, "E007", ["can't be imported"]),
    ({"RATELIMIT_BACKEND": "redi://me:hidden@host/0"}, "E007", ["did you mean 'redis://'?"]),
    ({"RATELIMIT_BACKEND": "ratelimit_core.backends.memory.Memory"}, "E007", ["memory.MemoryBackend'?"]),
    ({"RATELIMIT_BACKEND": "builtins.int"}, "E007", ["which is not a Backend"]),
    ({"RATELIMIT_BACKEND": "redis://host:port/0"}, "E007", ["RATELIMIT_BACKEND: ", "the port should be a number"]),
    (
        {"RATELIMIT_BACKEND": "redis://h", "RATELIMIT_BACKEND_OPTIONS": {"socket_timeuot": 1}},
        "E007",
        ["id you mean 'socket_timeout'?"],
    ),
    ({"RATELIMIT_BACKEND": "django-db://nowhere"}, "E007", ["'nowhere'", "DATABASES"]),
    ({"RATELIMIT_BACKEND": "django-db://resiliance"}, "E007", ["did you mean 'resilience'?"]),
    ({"DEBUG": False}, "W001", ["The backend is memory", "RATELIMIT_BACKEND = 'redis://...'"]),
    ({"RATELIMIT_MIDDLEWARE": {"rate": "1/s"}}, "W003", ["limits nothing", f"Add '{RESILIENCE}'"]),
    (
        {"RATELIMIT_MIDDLEWARE": {"rate": "1/s", "key": "user"}, "MIDDLEWARE": [RESILIENCE, AUTHENTICATION]},
        "W004",
        [f"Put '{RESILIENCE}' after '{AUTHENTICATION}'"],
    ),
]


@pytest.mark.parametrize(("settings", "number", "words"), WRONG, ids=[str(settings) for settings, _, _ in WRONG])
def test_a_wrong_setting_is_named_with_what_to_write(
    check: Checker, settings: dict[str, Any], number: str, words: list[str]
) -> None:
    found = check(**settings)
    assert [each for each, _, _ in found] == [f"ratelimit.{number}"], found
    text = " ".join(found[0][1:])
    for word in words:
        assert word in text
    assert "hidden" not in text


def test_a_database_that_is_shared_with_the_requests_is_warned_of(check: Checker) -> None:
    shared, reads_first = check(RATELIMIT_BACKEND="database")
    assert (shared[0], reads_first[0]) == ("ratelimit.W002", "ratelimit.W005")
    assert "rollback" in shared[1]
    assert "RATELIMIT_DATABASE = 'resilience'" in shared[2]
    assert "database is locked" in reads_first[1]
    assert "'transaction_mode': 'IMMEDIATE'" in reads_first[2]


RIGHT: list[dict[str, Any]] = [
    {"RATELIMIT_RESPONSE_HANDLER": f"{HANDLERS}.of_one", "RATELIMIT_EXCEPTION_HANDLER": f"{HANDLERS}.of_two"},
    {},
    {"RATELIMIT_BACKEND": "redis://127.0.0.1:1/0", "DEBUG": False},
    {"RATELIMIT_BACKEND": "django-db://resilience", "DEBUG": False},
    {"RATELIMIT_BACKEND": None, "RATELIMIT_REDIS": {"host": "127.0.0.1", "port": 1}},
    {
        "RATELIMIT_BACKENDS": [
            {"type": "redis", "name": "first", "options": {"url": "redis://127.0.0.1:1", "socket_timeout": 1}},
            {"type": "ratelimit_core.backends.memory.MemoryBackend", "name": "second"},
        ],
        "DEBUG": False,
    },
    {"RATELIMIT_CIRCUIT_BREAKER": {"slow_call_rate": 0.5, "slow_call_duration": 1, "failure_threshold": 3}},
    {"RATELIMIT_TRUSTED_PROXIES": ["10.0.0.0/8", "2001:db8::1"]},
    {
        "RATELIMIT_MIDDLEWARE": {"rate": "100/m", "key": "user", "skip_paths": ["/health/"]},
        "MIDDLEWARE": [AUTHENTICATION, RESILIENCE],
    },
]


@pytest.mark.parametrize("settings", RIGHT, ids=str)
def test_right_settings_pass_without_asking_a_store(check: Checker, settings: dict[str, Any]) -> None:
    assert check(**settings) == []


def test_every_wrong_setting_is_told_at_once(check: Checker) -> None:
    wrong = check(
        RATELIMIT_BACKNED=1,
        RATELIMIT_ALGORITHM="fixed",
        RATELIMIT_CIRCUIT_BREAKER={"windo": 1, "recovery_timeout": -1},
        RATELIMIT_TRUSTED_PROXIES=["a", "b"],
    )
    numbers = sorted(number.removeprefix("ratelimit.") for number, _, _ in wrong)
    assert numbers == ["E001", "E002", "E003", "E003", "E005", "E005"]


def test_manage_py_check_fails_on_errors(site: Site) -> None:
    good = site.manage("check")
    assert (good.returncode, good.stderr) == (0, ""), good
    bad = site.python("-m", "django", "check", "--tag", "ratelimit", environ={"RATELIMIT_ALGORITHM": "fixed"})
    assert bad.returncode == 1
    assert "(ratelimit.E002) RATELIMIT_ALGORITHM = 'fixed' should be one of" in bad.stderr


def test_a_variable_of_the_environment_that_is_no_setting_is_named(site: Site) -> None:
    checked = site.python("-m", "django", "check", "--tag", "ratelimit", environ={"RATELIMIT_BACKNED": "memory://"})
    assert checked.returncode == 1
    assert "RATELIMIT_BACKNED is not a setting, but the environment has a variable of this name." in checked.stderr
    assert "Did you mean RATELIMIT_BACKEND?" in checked.stderr


def test_the_migrations_are_complete(site: Site) -> None:
    assert site.manage("makemigrations", "--check", "--dry-run").returncode == 0
