"""The dashboard, and the actions of operators on breakers."""
