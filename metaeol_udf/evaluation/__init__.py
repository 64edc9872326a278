"""What embeddings hold and how good they are. Works without Spark."""
