"""The sets of camouflaged object detection, found below a folder (section 5.1 of the notes)."""
