"""The Spark session and what is checked of a cluster before a run. Runs on the driver."""
