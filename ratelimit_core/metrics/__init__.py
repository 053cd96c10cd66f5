"""Metrics to alert on, for Prometheus and OpenTelemetry. A program imports the exporter that it uses.

Gauges show the state that the fleet shares. They are read from the store when metrics are collected (:mod:`.fleet`).
Counters and histograms show what one process counts (:mod:`.counters`).
"""
