"""As-of: a row, a table or a file rebuilt as it was after any change, out of the log and what is there now."""
