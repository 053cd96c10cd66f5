"""The state of the fleet, in a form for people to read."""
