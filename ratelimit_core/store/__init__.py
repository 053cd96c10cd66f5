"""The store that guards ask: the configured backend and, while it is unavailable, this process's memory."""
