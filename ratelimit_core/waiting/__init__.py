"""The keys whose tasks wait, and when they may run. It knows no broker and no task.

A waiting key is everything that a run needs: its breaker and its limits. While tasks of a key wait in a source queue,
the key has a number there, and the tasks lie in the waiting queue of that number.
"""
