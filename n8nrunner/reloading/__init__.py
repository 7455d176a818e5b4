"""``n8nrunner run --reload``: imports the modules of a program's folder again when a file there changes."""
