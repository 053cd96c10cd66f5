"""The state of the fleet, in a form that people can read."""
