"""HTML and SVG for notebooks, made without other packages."""
