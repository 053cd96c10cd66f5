"""One run of a protected task, from its admission to its outcome, and how it waits."""
