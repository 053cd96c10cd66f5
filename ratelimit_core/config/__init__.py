"""Settings: which exist, where they come from, and the defaults of a breaker."""
