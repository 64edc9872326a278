"""Delta tables by name: columns, conditions, ALTER, properties, and Spark's errors in plain words."""
