"""The manifest: built from a ledger, validated, summarised."""
