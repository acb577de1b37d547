"""What a training step needs in memory, known before it runs."""
