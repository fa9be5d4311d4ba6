"""Pictures: from a file, an array or raw pixels to the rows of patches that a vision tower takes.

picture.py   what a picture may be given as -> Picture
headers.py   format, size and orientation of a file, before anything is decoded
rules.py     preprocessor_config.json -> Rules
sizes.py     the sizes that the rules resize to
layout.py    Rules and a size -> PicturePlan, its Pieces (plan.py) with grids and rows
reader.py    Picture and Piece -> patches on the GPU
"""
