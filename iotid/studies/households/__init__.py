"""How well a set of device kinds behind one address is found: captures merged as if behind one address."""
