"""The command line: click lives here and nowhere else. One module for each family of verbs."""
