"""The state of the fleet, for people."""
