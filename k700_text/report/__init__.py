"""What a person looks at: a sheet of some clips of a manifest."""
