"""The k700-text command: the only place of print and exit codes."""
