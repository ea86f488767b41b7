"""From the bytes of a media item to the patches that the vision tower takes.

headers     size and orientation of an image file, without decoding it
images      image file -> RGB
videos      video file -> sampled RGB frames
patches     RGB -> resized, normalised, cut into patches
processor   all of it: what a server calls
"""
