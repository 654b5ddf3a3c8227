"""Results for people: maps, curves, the section check and the HTML report."""
