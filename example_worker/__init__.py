"""A small real project: orders, a Celery fleet that charges them, and a payment service that has bad days.

``tasks.py`` is what one would write; ``demo.py`` shows that it works; ``run.py`` leaves it all running.
"""
