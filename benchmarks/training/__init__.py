"""What the benchmark of the training step is made of: our step and its parts, the peer, and the clock."""
