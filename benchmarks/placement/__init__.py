"""What placement is measured on: networks, and what other compilers do with them."""
