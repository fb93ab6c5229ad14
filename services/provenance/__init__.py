"""Where images come from, said in the images themselves: C2PA, IPTC, parameters, watermarks."""
