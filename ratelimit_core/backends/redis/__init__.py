"""The backend for Redis and Valkey."""
