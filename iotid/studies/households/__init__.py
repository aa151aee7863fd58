"""Measures how well the kinds at one address are found, on held-out captures merged as if behind one address."""
