"""Where texts come from: a Delta table, files of other formats, or a query. Each is opened, checked and read in one way."""
