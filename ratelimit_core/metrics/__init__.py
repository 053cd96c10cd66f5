"""Metrics to alert on, for Prometheus and OpenTelemetry. Nothing here is imported unless it is asked for.

What the fleet shares is read from its store when somebody looks (:mod:`.fleet`); what each process counts it adds up
itself (:mod:`.counters`).
"""
