"""Metrics to alert on, for Prometheus and OpenTelemetry. A program imports the exporter that it uses.

Gauges show the state that the fleet shares, which is read from the store at each collection (:mod:`.fleet`).
Counters and histograms show what one process counts (:mod:`.counters`).
"""
