"""A model folder: finds, verifies and converts its files, and gives a process's memory back. Imports no torch when a driver asks."""
