"""The parts that run in a worker's main process."""
