"""The state of the fleet, in the form that people read."""
