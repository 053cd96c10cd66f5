"""The data that guards and stores exchange: calls, names, the layout of a breaker's record."""
