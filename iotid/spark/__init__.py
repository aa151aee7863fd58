"""Spark: the session, Java, the blocks of a shuffle, the worker's start-up, errors that cross from workers."""
