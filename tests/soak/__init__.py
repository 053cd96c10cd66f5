"""A fleet that lives through random faults, and is then looked over for what it lost and what it leaked."""
