"""How well the kinds behind one address are found: held-back captures, merged as if behind one address."""
