"""The store that guards ask. While the configured backend is unavailable, guards use this process's memory."""
