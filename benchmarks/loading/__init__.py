"""What the loader benchmarks share: test clips, the peers, and timing in turn. ``make bench`` runs none of it alone."""
