"""A small real project: orders, a Celery fleet that charges them, a payment service that has bad days, and a site.

``tasks.py`` and ``views.py`` are what one would write; ``demo.py`` shows that it works; ``run.py`` leaves it running.
"""
