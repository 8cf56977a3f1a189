"""What the documentation site adds to the pages: navigation, the reference, how-tos, links and formulas."""
