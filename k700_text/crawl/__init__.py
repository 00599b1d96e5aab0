"""Recovers titles: planner, ledger, limiter, transport, crawler, verdict and the sources."""
