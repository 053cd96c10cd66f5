"""A small real project: a site that takes orders, Celery workers that charge them, and an unreliable payment service.

``tasks.py`` and ``views.py`` show the code of a user. ``demo.py`` measures an outage. ``run.py`` starts the project.
"""
