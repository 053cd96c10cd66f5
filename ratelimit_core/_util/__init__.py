"""What every package may use: clocks, ids, texts, forks, event loops."""
