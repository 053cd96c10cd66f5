"""The suite on the oldest and the newest of what is supported: ``make test-matrix``."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

MATRIX = {
    "oldest": ("3.11", ["django~=5.2.0", "celery~=5.5.0", "kombu~=5.5.0", "redis~=5.2.0"]),
    "newest": ("3.13", ["django~=6.1.0", "celery~=5.7.0", "kombu~=5.7.0"]),
}


def _session(name: str, python: str, pins: list[str]) -> None:
    @nox.session(name=name, python=python)
    def tests(session: nox.Session) -> None:
        session.install("-e", ".[test]", *pins)
        session.run("python", "-m", "pytest", *session.posargs)


for name, (python, pins) in MATRIX.items():
    _session(name, python, pins)
