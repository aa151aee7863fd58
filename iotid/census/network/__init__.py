"""The census of a network: all sites of a date together, unknown groups over sites, and trends."""
