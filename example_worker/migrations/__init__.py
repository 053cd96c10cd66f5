"""Django looks for migrations here."""
