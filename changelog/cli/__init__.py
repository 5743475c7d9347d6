"""The command line of the changelog, by subject."""
