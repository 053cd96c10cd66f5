"""The suite on the oldest and the newest of what is supported: ``make test-matrix``."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
EXTRAS = ("cli", "drf", "prometheus", "opentelemetry", "demo")
"""What users install; the others are for those who work on this."""


def _lowest() -> list[str]:
    """Each lower bound, and no later release: a bound that can't be installed, or that is too low, is found."""
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
