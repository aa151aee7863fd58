"""Spark: the session, Java, shuffle blocks, the start-up of workers, errors that workers raise."""
