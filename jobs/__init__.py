"""One thin spark-submit entry point per step: parse, build the session, one library call, write."""
