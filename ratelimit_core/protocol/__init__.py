"""What guards and stores share: calls, names, the layout of a breaker's record."""
