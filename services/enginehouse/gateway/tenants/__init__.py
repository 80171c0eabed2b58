"""Who is calling, and how much each tenant may use."""
