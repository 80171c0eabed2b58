"""The content of `enginehouse demo`: its examples as data, the code that plays them, the table that shows them."""
