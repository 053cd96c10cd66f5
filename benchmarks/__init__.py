"""What it costs and what it keeps, measured: ``make bench-outage``."""
