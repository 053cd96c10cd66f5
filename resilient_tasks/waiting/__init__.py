"""Waiting tasks: a task that can't run now waits as a message in a queue of the broker."""
