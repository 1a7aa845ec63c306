"""Reports: text, JSON, the HTML page and figures."""
