"""Metrics to alert on, for Prometheus and OpenTelemetry. A program imports the exporter that it uses.

The state that the fleet shares is read from its store when it is asked for (:mod:`.fleet`). Each process adds up its
own counts (:mod:`.counters`).
"""
