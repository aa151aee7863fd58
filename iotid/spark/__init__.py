"""Spark: session, Java, shuffle, start-up of Python workers, errors of workers."""
