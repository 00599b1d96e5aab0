"""One file per source of titles, each with a pure parser."""
