"""The services that the sandbox stands in for, one file each."""
