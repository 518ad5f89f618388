"""What turns a folder of pages with Python blocks into a site that proves itself."""
