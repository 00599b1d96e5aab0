"""Every trick with files, once: whole or not at all, one writer at a time, in pieces, unchanged or not."""
