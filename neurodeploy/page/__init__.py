"""The report as a page: one HTML file that holds all it shows, and asks no network for anything."""

from neurodeploy.page.document import Evidence, page_of, write_page

__all__ = ["Evidence", "page_of", "write_page"]
