"""One run of a protected task: its admission, its outcome, and how it waits."""
