"""Commands for operators: check, steer and watch a fleet."""
