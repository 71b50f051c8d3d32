"""A page on this machine that shows cases with their label maps: files -> a local web server and a browser."""
