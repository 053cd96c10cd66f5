"""The dashboard, and the actions of operators."""
