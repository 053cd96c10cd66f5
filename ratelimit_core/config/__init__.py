"""Settings: their names and defaults, their sources, and the settings of a breaker."""
