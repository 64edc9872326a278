"""Which rows need work, at which versions of the tables. Plain Spark SQL, no Python."""
