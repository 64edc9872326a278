"""What stands in for Delta's classes and Hadoop's file systems over Spark Connect, where this process has no JVM."""
