"""Whose flow it is, decided once for labels, traffic windows and the census."""
