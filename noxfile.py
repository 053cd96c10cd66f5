"""Run the tests on the oldest and the newest supported Python, Django and Celery: ``make test-matrix``."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
EXTRAS = ("cli", "drf", "prometheus", "opentelemetry", "demo")
"""The extras for users. The other extras are for developers of this project."""


def _lowest() -> list[str]:
    """Return a pin of each dependency to its lower bound, to find bounds that are too low or can't be installed."""
    extras = PROJECT["optional-dependencies"]
    bounds = [*PROJECT["dependencies"], *(bound for extra in EXTRAS for bound in extras[extra])]
    return [bound.replace(">=", "==") for bound in bounds if ">=" in bound]


MATRIX = {
    "oldest": ("3.11", _lowest()),
    "newest": ("3.13", ["django~=6.1.0", "celery~=5.7.0", "kombu~=5.7.0"]),
}


def _session(name: str, python: str, pins: list[str]) -> None:
    @nox.session(name=name, python=python)
    def tests(session: nox.Session) -> None:
        session.install("-e", ".[test]", *pins)
        parts = (("-n", "auto", "--dist", "worksteal", "-m", "not timed"), ("-m", "timed"))  # as in the Makefile
        for part in parts:
            session.run("python", "-m", "pytest", *part, *session.posargs, success_codes=[0, 5])


for name, (python, pins) in MATRIX.items():
    _session(name, python, pins)
