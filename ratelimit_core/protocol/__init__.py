"""The data that guards and stores exchange: calls, names, and the layout of a breaker's record."""
